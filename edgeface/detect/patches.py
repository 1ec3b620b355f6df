"""Square patches of a picture under a similarity transform, without aliasing."""

from __future__ import annotations

import numpy as np

from edgeface.opencv import cv2
from edgeface.types import Array, Image


def cut(image: Image, matrix: Array, side: int) -> Image:
    """The square of `side` px that a (2, 3) similarity `matrix` maps the picture (H, W, 3) to;
    black beyond the picture."""
    out = cv2.warpAffine(*_shrunk(image, matrix, side), (side, side), flags=cv2.INTER_LINEAR)
    return np.asarray(out, np.uint8)


def back(matrix: Array, points: Array) -> Array:
    """Points (n, 2) of a patch in pixels of the picture that `matrix` (2, 3) cut it from."""
    inverse = cv2.invertAffineTransform(matrix)
    return np.asarray(points @ inverse[:, :2].T + inverse[:, 2], np.float32)


def _shrunk(image: Image, matrix: Array, side: int) -> tuple[Image, Array]:
    """The part of `image` that a patch shows and the matrix for it, averaged down first where the
    matrix would skip pixels: by a whole factor, which OpenCV does several times as fast."""
    factor = int(np.ceil(0.5 / max(float(np.hypot(matrix[0, 0], matrix[1, 0])), 1e-6)))
    if factor < 2:
        return image, matrix
    corners = back(matrix, np.array([[0, 0], [side, 0], [0, side], [side, side]], np.float32))
    limit = np.array(image.shape[1::-1])
    low = np.clip(np.floor(corners.min(0)).astype(int) - factor, 0, limit - 1)
    high = np.clip(np.ceil(corners.max(0)).astype(int) + factor, low + 1, limit)
    size = np.maximum((high - low) // factor, 1)
    high = np.minimum(low + size * factor, limit)
    part = image[low[1] : high[1], low[0] : high[0]]
    small = cv2.resize(part, [int(n) for n in size], interpolation=cv2.INTER_AREA)
    scale = size / (high - low)
    fitted = np.column_stack([matrix[:, :2] / scale, matrix[:, 2]])
    # Pixel centres: x = (x_small + 0.5) / scale - 0.5 + low
    fitted[:, 2] += matrix[:, :2] @ (0.5 / scale - 0.5 + low)
    return np.asarray(small, np.uint8), fitted.astype(np.float32)
