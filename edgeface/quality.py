"""How far a face can be trusted to say who it is, without a network.

The score multiplies five saturating factors in [0, 1]: size, sharpness, pose, exposure, and the
detector's own confidence. The knees were set on what embedders trained at 112x112 tolerate: below
about 12 px between the eyes identity fades quickly, and so it does near profile.
"""

from __future__ import annotations

import math

import numpy as np

from edgeface.opencv import cv2
from edgeface.types import Face, Flaw, Image

# Each pair: the value that halves the factor, and how sharply it does.
EYES_PX = (10.0, 0.4)
SHARPNESS = (12.0, 0.2)
YAW = (0.7, 10.0)
CONTRAST = (18.0, 0.25)


def rate(face: Face, crop: Image, image_size: tuple[int, int]) -> float:
    """Quality of one face.

    Args:
        face: its landmarks, box and score in pixels of the full image.
        crop: its (112, 112, 3) uint8 BGR aligned crop.
        image_size: (height, width) of the full image.

    Returns:
        a number in [0, 1]; multiplies evidence in `aggregate`, gates enrolment.
    """
    return math.prod(factors(face, crop).values()) * visible(face, image_size)


def factors(face: Face, crop: Image) -> dict[Flaw, float]:
    """The factors of `rate` but that of what is outside the image, in [0, 1]; each says which flaw
    makes it small."""
    gray = cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY)[20:100, 22:90]
    eyes = float(np.linalg.norm(face.landmarks[1] - face.landmarks[0]))
    sharpness = float(cv2.Laplacian(gray, cv2.CV_32F).var())
    light = Flaw.DARK if gray.mean() < 128 else Flaw.OVEREXPOSED
    return {
        Flaw.TOO_SMALL: _sigmoid(eyes, EYES_PX),
        Flaw.BLURRED: _sigmoid(sharpness, SHARPNESS),
        Flaw.TURNED_AWAY: 1.0 - _sigmoid(yaw(face), YAW),
        light: _sigmoid(float(gray.std()), CONTRAST),
        Flaw.NO_SURE_FACE: float(np.clip(face.score, 0.0, 1.0)),
    }


def yaw(face: Face) -> float:
    """Head turn as the nose's offset from the midline between the eyes and mouth corners, in units
    of half their distance: 0 frontal, 1 profile; unaffected by in-plane rotation."""
    left, right, nose, mouth_left, mouth_right = face.landmarks.astype(np.float64)
    axis = (right + mouth_right - left - mouth_left) / 2.0
    width = float(np.linalg.norm(axis)) or 1e-6
    centre = (left + right + mouth_left + mouth_right) / 4.0
    return float(min(1.0, abs((nose - centre) @ axis) / (width * width / 2.0)))


def visible(face: Face, image_size: tuple[int, int]) -> float:
    """Share of the face's box that lies inside the image, in [0, 1]."""
    height, width = image_size
    x1, y1, x2, y2 = (float(v) for v in face.box)
    inside = max(0.0, min(x2, width) - max(x1, 0.0)) * max(0.0, min(y2, height) - max(y1, 0.0))
    return inside / max((x2 - x1) * (y2 - y1), 1e-6)


def _sigmoid(value: float, knee: tuple[float, float]) -> float:
    centre, slope = knee
    return float(1.0 / (1.0 + np.exp(np.clip(-slope * (value - centre), -60.0, 60.0))))
