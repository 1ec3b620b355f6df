"""yolov5n-face, whose boxes and points are labels and figures to compare with; ncnn runs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np

from edgeface.detect import suppress
from export.detector_labels import Opinion
from export.scenes import Image

# Output name, stride, and three anchors (width, height) px, of the exported file.
LAYERS = (
    ("981", 8, ((4, 5), (8, 10), (13, 16))),
    ("983", 16, ((23, 29), (43, 55), (73, 105))),
    ("985", 32, ((146, 217), (231, 300), (335, 433))),
)
SCORE = 0.35


class Yolo:
    """A yolov5n-face file of ncnn; boxes in version 5's code, points in anchors from the cell."""

    def __init__(self, net: Any) -> None:
        self._net = net

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """The model in `folder`; None, with a word on stderr, where ncnn is not installed."""
        try:
            import ncnn
        except ImportError:
            print("pip install ncnn: yolov5n-face needs it", file=sys.stderr)
            return None
        net = ncnn.Net()
        net.opt.num_threads = 1
        net.load_param(str(folder / "yolov5n_face.ncnn.param"))
        net.load_model(str(folder / "yolov5n_face.ncnn.bin"))
        return cls(net)

    def __call__(self, image: Image) -> list[Opinion]:
        """Faces of one (H, W, 3) uint8 BGR picture, best first, at the picture's own scale."""
        import ncnn

        height, width = (-(-n // 32) * 32 for n in image.shape[:2])
        padded = np.full((height, width, 3), 114, np.uint8)
        padded[: image.shape[0], : image.shape[1]] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        planes = np.ascontiguousarray(padded.transpose(2, 0, 1), np.float32) / 255
        rows = []
        with self._net.create_extractor() as extractor:
            extractor.input(self._net.input_names()[0], ncnn.Mat(planes).clone())
            for name, stride, anchors in LAYERS:
                _, out = extractor.extract(name)
                rows.append(_decoded(np.array(out), stride, anchors, width // stride))
        found = np.concatenate(rows)
        found = found[np.argsort(-found[:, 0], kind="stable")]
        leaders = [group[0] for group in suppress(found[:, 1:5], 0.45)]
        return [Opinion(r[1:5], r[5:].reshape(5, 2), float(r[0])) for r in found[leaders]]


def _decoded(
    out: np.ndarray, stride: int, anchors: tuple[tuple[int, int], ...], columns: int
) -> np.ndarray:
    """(3, cells, 16) raw to (n, 15): score, box xyxy and points px."""
    parts = []
    for values, anchor in zip(out.reshape(3, -1, 16), np.array(anchors, np.float32), strict=True):

        def sigmoid(x: np.ndarray) -> np.ndarray:
            return np.asarray(1 / (1 + np.exp(-x)))

        score = sigmoid(values[:, 4]) * sigmoid(values[:, 15])
        keep = np.flatnonzero(score >= SCORE)
        cell = np.stack([keep % columns, keep // columns], 1).astype(np.float32)
        box = sigmoid(values[keep, :4])
        middle = (box[:, :2] * 2 - 0.5 + cell) * stride
        half = (box[:, 2:] * 2) ** 2 * anchor / 2
        points = values[keep, 5:15].reshape(-1, 5, 2) * anchor + (cell * stride)[:, None]
        parts.append(
            np.column_stack([score[keep], middle - half, middle + half, points.reshape(-1, 10)])
        )
    return np.concatenate(parts).astype(np.float32)
