"""Overlays and the file they go into."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import face

from edgeface.draw import overlay
from edgeface.types import Decision, Sighting, Status, Threshold


def sighting(x: float, y: float, name: str | None) -> Sighting:
    status = Status.MATCH if name else Status.UNKNOWN
    return Sighting(face(x, y), Decision(status, name, 1, 0.7, 0.2, Threshold(0.5, "card")), 3)


@pytest.mark.parametrize("name", ["Alice", None, "Ахматова", "x" * 200])
@pytest.mark.parametrize("place", [(50, 60), (-20, -20), (150, 100), (1000, 1000)])
def test_a_box_is_drawn_and_the_frame_left_alone(name: str | None, place: tuple[int, int]) -> None:
    image = np.full((120, 160, 3), 30, np.uint8)
    drawn = overlay(image, [sighting(*place, name)])
    assert (image == 30).all()
    assert drawn.shape == image.shape
    if place == (50, 60):
        assert (drawn != 30).any()


def test_nobody_leaves_the_picture_as_it_is() -> None:
    image = np.full((20, 20, 3), 7, np.uint8)
    assert (overlay(image, []) == image).all()
