"""YuNet as its authors publish it: the ONNX files of OpenCV's model zoo, `face_detection_yunet_*`.

Per stride a file has four tables with a row per cell: `cls` and `obj`, whose product is the square
of the score, `bbox` and `kps`. Some files take pictures of one size only; their card says which.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeface.detect import grid
from edgeface.detect.boxes import Candidates
from edgeface.types import Array

MULTIPLE = grid.MULTIPLE
_COLUMNS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}


def shapes(height: int, width: int) -> dict[str, tuple[int, ...]]:
    """The outputs for an input of `height` and `width` px, and their shapes."""
    return {
        f"{table}_{s}": (1, (height // s) * (width // s), columns)
        for table, columns in _COLUMNS.items()
        for s in grid.STRIDES
    }


def decode(maps: Mapping[str, Array], threshold: float, size: tuple[int, int]) -> Candidates:
    """The faces of one picture whose score is at least `threshold`, see `Family.decode`."""
    height, width = size
    grids = {}
    for s in grid.STRIDES:
        score = np.sqrt(maps[f"cls_{s}"] * maps[f"obj_{s}"]).clip(1e-6, 1 - 1e-6)
        logit = np.log(score / (1 - score))
        rows = np.concatenate([logit, maps[f"bbox_{s}"], maps[f"kps_{s}"]], axis=2)
        grids[f"stride_{s}"] = rows.transpose(0, 2, 1).reshape(1, -1, height // s, width // s)
    return grid.decode(grids, threshold, size)
