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


def shrink(image: Image, size: int) -> Image:
    """A crop as a far camera would have given it: down to `size` pixels and up again."""
    small = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR))


def shrink_all(images: Image, size: int) -> Image:
    """`shrink` of every one of (n, h, w, 3) crops."""
    out = np.empty_like(images)
    for i, image in enumerate(images):
        out[i] = shrink(image, size)
    return out
