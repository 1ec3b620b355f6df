"""How a head is turned, from its five landmarks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeface.types import Array, Pose

# Five points of an average head in eye distances, x to the picture's right, y down, z towards the
# camera: pupils, tip of the nose, corners of the mouth. Rounded from the canonical face of
# MediaPipe's face mesh.
HEAD = np.array(
    [
        [-0.5, -0.41, 0.0],
        [0.5, -0.41, 0.0],
        [0.0, 0.18, 0.62],
        [-0.39, 0.69, 0.12],
        [0.39, 0.69, 0.12],
    ]
)
_FIT = np.linalg.pinv(HEAD - HEAD.mean(0))  # (3, 5)


def roll(landmarks: Array) -> float:
    """Degrees by which the head of (5, 2) landmarks is tilted clockwise, in (-180, 180]."""
    left, right, _, mouth_left, mouth_right = landmarks.astype(np.float64)
    across = right + mouth_right - left - mouth_left
    down = mouth_left + mouth_right - left - right
    # The upright head's directions, turned to agree: a profile has hardly any across.
    x, y = across[0] + down[1], across[1] - down[0]
    return float(np.degrees(np.arctan2(y, x)))


def estimate(landmarks: Array) -> Pose:
    """The pose of a head with (5, 2) landmarks in pixels of a picture, seen from afar.

    The affine camera that maps `HEAD` onto the points with the least squared error, made a
    rotation: exact for scaled orthographic views of that head, about five degrees off for others.
    """
    camera, tilt = _camera(landmarks)
    forward = np.clip(camera[:, 2] / _scale(camera), -1, 1)
    yaw, pitch = np.degrees(np.arcsin(forward))
    return Pose(yaw=float(yaw), pitch=float(-pitch), roll=tilt)


def upright(landmarks: Array, side: int, eyes: float) -> Array:
    """The (2, 3) float32 matrix that puts a head with (5, 2) landmarks upright into a square of
    `side` px, the mean of the points in its middle, so large that `eyes` px would lie between its
    eyes if it looked straight ahead."""
    camera, tilt = _camera(landmarks)
    ratio, angle = eyes / max(_scale(camera), 0.1), np.deg2rad(tilt)
    cos, sin = ratio * np.cos(angle), ratio * np.sin(angle)
    linear = np.array([[cos, sin], [-sin, cos]])
    shift = (side - 1) / 2 - linear @ landmarks.astype(np.float64).mean(0)
    return np.column_stack([linear, shift]).astype(np.float32)


def _camera(landmarks: Array) -> tuple[NDArray[np.float64], float]:
    """The affine camera (2, 3) of an upright head, and its roll in degrees."""
    points, tilt = landmarks.astype(np.float64), roll(landmarks)
    angle = np.deg2rad(tilt)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return turn @ ((points - points.mean(0)).T @ _FIT.T), tilt


def _scale(camera: NDArray[np.float64]) -> float:
    """Pixels per unit of `HEAD`: the eye distance from the front."""
    return max(float(np.linalg.norm(camera) / np.sqrt(2)), 1e-9)
