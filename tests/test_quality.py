"""Quality falls with everything that makes a face hard to recognise."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from conftest import face

from edgeface.quality import rate, visible, yaw
from edgeface.types import Face

CROP = cv2.resize(
    np.random.default_rng(1).integers(0, 256, (28, 28, 3), dtype=np.uint8), (112, 112)
)
SIZE = (400, 400)


def test_a_good_face_scores_high_and_stays_within_bounds() -> None:
    assert 0.7 < rate(face(100, 100, 100, 0.95), CROP, SIZE) <= 1.0


def test_each_fault_costs() -> None:
    good = rate(face(100, 100, 100), CROP, SIZE)
    assert rate(face(100, 100, 15), CROP, SIZE) < 0.5 * good
    assert rate(face(100, 100, 100), cv2.GaussianBlur(CROP, (0, 0), 9), SIZE) < 0.5 * good
    assert rate(face(100, 100, 100), CROP // 16 + 5, SIZE) < 0.5 * good
    assert rate(face(360, 100, 100), CROP, SIZE) < 0.5 * good
    assert rate(face(100, 100, 100, 0.4), CROP, SIZE) == pytest.approx(good * 0.4 / 0.9, rel=1e-3)


def test_yaw_follows_the_nose_and_ignores_roll() -> None:
    frontal = face(0, 0, 100)
    assert yaw(frontal) == pytest.approx(0, abs=1e-6)
    turned = frontal.landmarks.copy()
    turned[2, 0] += 12
    side = Face(frontal.box, turned, 1.0)
    assert 0.4 < yaw(side) < 1
    angle = 0.7
    spin = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    rolled = Face(frontal.box, turned @ spin.T, 1.0)
    assert yaw(rolled) == pytest.approx(yaw(side), abs=1e-5)
    one_point = Face(frontal.box, np.zeros((5, 2), np.float32), 1.0)
    assert yaw(one_point) <= 1


def test_visible_share() -> None:
    assert visible(face(0, 0, 40), SIZE) == 1
    assert visible(face(380, 0, 40), SIZE) == pytest.approx(0.5)
    assert visible(face(900, 0, 40), SIZE) == 0
