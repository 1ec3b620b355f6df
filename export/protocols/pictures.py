"""Pictures of the data folders."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.errors import DataError

Image = NDArray[np.uint8]


def read(path: Path) -> Image:
    """A picture (h, w, 3) uint8 BGR.

    Raises:
        DataError: there is none that OpenCV reads.
    """
    image = cv2.imread(str(path))
    if image is None:
        raise DataError(f"{path}: expected a picture that OpenCV reads")
    return np.asarray(image, np.uint8)


def stack(paths: Iterable[Path]) -> Image:
    """Pictures of one size, (n, h, w, 3)."""
    return np.stack([read(path) for path in paths])
