"""Alignment puts landmarks where the template has them, whatever the face's size and turn."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeface.alignment import TEMPLATE, align, similarity_transform
from edgeface.types import Face


def warped(scale: float, angle: float, dx: float, dy: float) -> np.ndarray:
    """The 2x3 similarity with that scale, angle (radians) and shift."""
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, dx], [s, c, dy]])


def moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


@given(st.floats(0.2, 8), st.floats(-3, 3), st.floats(-500, 500), st.floats(-500, 500))
def test_a_similarity_is_recovered(scale: float, angle: float, dx: float, dy: float) -> None:
    matrix = warped(scale, angle, dx, dy)
    source = moved(TEMPLATE, matrix).astype(np.float32)
    found = similarity_transform(source, TEMPLATE)
    assert np.abs(moved(source, found) - TEMPLATE).max() < 0.05


@given(st.integers(0, 2**32 - 1))
def test_no_similarity_fits_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    source = (TEMPLATE + rng.normal(0, 5, TEMPLATE.shape)).astype(np.float32)
    found = similarity_transform(source, TEMPLATE)
    error = ((moved(source, found) - TEMPLATE) ** 2).sum()
    for _ in range(5):
        nudged = found + warped(rng.normal(0, 1e-2), rng.normal(), *rng.normal(0, 0.5, 2))
        assert ((moved(source, nudged) - TEMPLATE) ** 2).sum() >= error - 1e-3


@pytest.mark.parametrize("size", [0.6, 1.0, 2.7, 9.0])
def test_dots_at_the_landmarks_land_on_the_template(size: float) -> None:
    matrix = warped(size, 0.3, 150 * size, 20 * size)
    points = moved(TEMPLATE, matrix)
    image = np.zeros((int(330 * size), int(330 * size), 3), np.uint8)
    for x, y in points:
        cv2.circle(
            image, (round(x * 16), round(y * 16)), int(4 * size * 16), (255, 255, 255), -1, 8, 4
        )
    face = Face(np.zeros(4, np.float32), points.astype(np.float32), 1.0)
    (crop,) = align(image, [face])
    count, _, _, centres = cv2.connectedComponentsWithStats((crop[..., 0] > 127).astype(np.uint8))
    assert count == 6
    for point in TEMPLATE:
        assert np.linalg.norm(centres[1:] - point, axis=1).min() < 0.7


def test_a_face_beyond_the_image_is_black_and_none_is_none() -> None:
    image = np.full((50, 50, 3), 255, np.uint8)
    away = Face(np.zeros(4, np.float32), TEMPLATE * 5 + 4000, 1.0)
    assert align(image, [away]).max() == 0
    assert align(image, []).shape == (0, 112, 112, 3)
