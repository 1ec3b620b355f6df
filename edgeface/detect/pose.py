"""How a head is turned, from its five landmarks."""

from __future__ import annotations

import numpy as np

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
    points = landmarks.astype(np.float64)
    tilt = np.deg2rad(roll(landmarks))
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    camera = turn @ ((points - points.mean(0)).T @ _FIT.T)  # (2, 3), of the upright head
    scale = max(float(np.linalg.norm(camera)) / np.sqrt(2), 1e-9)
    forward = np.clip(camera[:, 2] / scale, -1, 1)
    yaw, pitch = np.degrees(np.arcsin(forward))
    return Pose(yaw=float(yaw), pitch=float(-pitch), roll=float(np.degrees(tilt)))
