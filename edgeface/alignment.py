"""Alignment: five landmarks to the 112x112 crop that embedders are trained on.

The reference points are those of ArcFace (Deng et al., CVPR 2019), which MobileFaceNet and its
relatives share; the transform is the least-squares similarity of Umeyama (PAMI 1991).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.images import check
from edgeface.opencv import cv2
from edgeface.types import Array, Face, Image

SIZE = 112
TEMPLATE: Array = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ],
    dtype=np.float32,
)


def similarity_transform(source: Array, target: Array) -> Array:
    """The 2x3 float32 matrix of scale, rotation and shift that maps `source` (n, 2) onto `target`
    (n, 2) with the least squared error, never mirrored (Umeyama 1991, eq. 40-43)."""
    source64, target64 = source.astype(np.float64), target.astype(np.float64)
    mean_s, mean_t = source64.mean(0), target64.mean(0)
    s, t = source64 - mean_s, target64 - mean_t
    # For the plane the closed form needs no SVD: a rotation-scale is one complex number.
    spread = float((s * s).sum()) or 1e-12
    a = float((s * t).sum()) / spread
    b = float((s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]).sum()) / spread
    linear = np.array([[a, -b], [b, a]])
    shift = mean_t - linear @ mean_s
    return np.hstack([linear, shift[:, None]]).astype(np.float32)


def align(image: NDArray[Any], faces: Sequence[Face]) -> Image:
    """Cut one aligned crop per face.

    Args:
        image: (H, W, 3) uint8 BGR.
        faces: faces of that image; only their landmarks are used.

    Returns:
        (n, 112, 112, 3) uint8 BGR; what lies outside the image is black.
    """
    image = check(image)
    crops = np.empty((len(faces), SIZE, SIZE, 3), np.uint8)
    for crop, face in zip(crops, faces, strict=True):
        matrix = similarity_transform(face.landmarks, TEMPLATE)
        picture = image
        # Bilinear sampling of a large face skips pixels and aliases: halve the face's patch first.
        scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
        if scale < 0.5:
            picture, matrix = _shrink(image, matrix, scale)
        cv2.warpAffine(picture, matrix, (SIZE, SIZE), dst=crop, flags=cv2.INTER_LINEAR)
    return crops


def _shrink(image: Image, matrix: Array, scale: float) -> tuple[Image, Array]:
    """The face's patch, area-averaged to twice the crop's scale, and the matrix that fits it."""
    inverse = cv2.invertAffineTransform(matrix)
    square = np.array([[0, SIZE, 0, SIZE], [0, 0, SIZE, SIZE], [1, 1, 1, 1]], np.float32)
    corners = inverse @ square
    limit = np.array([[image.shape[1]], [image.shape[0]]])
    low = np.clip(np.floor(corners.min(1, keepdims=True)) - 2, 0, limit).astype(int)[:, 0]
    high = np.clip(np.ceil(corners.max(1, keepdims=True)) + 2, 0, limit).astype(int)[:, 0]
    if (high - low < 1).any():
        return image, matrix
    patch = image[low[1] : high[1], low[0] : high[0]]
    width, height = (max(1, round(n * 2 * scale)) for n in (high - low))
    small = cv2.resize(patch, (width, height), interpolation=cv2.INTER_AREA)
    k = np.array([width / patch.shape[1], height / patch.shape[0]])
    adapted = np.empty((2, 3), np.float32)
    adapted[:, :2] = matrix[:, :2] / k
    # Pixel centres: x = (x_small + 0.5) / k - 0.5 + low
    adapted[:, 2] = matrix[:, 2] + matrix[:, :2] @ (0.5 / k - 0.5 + low)
    return np.asarray(small, np.uint8), adapted
