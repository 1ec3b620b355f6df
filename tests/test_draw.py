"""Overlays and the file they go into."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import face

from edgeface.draw import OverlayWriter, overlay
from edgeface.errors import OutputError
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


def test_a_video_appears_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with OverlayWriter(path, 10) as writer:
        for i in range(5):
            writer.write(np.zeros((48, 64, 3), np.uint8), i / 10)
        assert not path.exists()
    assert int(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT)) == 5
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_an_exception_leaves_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with pytest.raises(RuntimeError), OverlayWriter(path, 10) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8), 0.0)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="make it first"):
        OverlayWriter(tmp_path / "none" / "out.mp4", 10)


@pytest.mark.parametrize(("rate", "expected"), [(5, 21), (10, 20), (40, 20)])
def test_the_file_keeps_the_clock_of_the_source(tmp_path: Path, rate: int, expected: int) -> None:
    path = tmp_path / "out.mp4"
    with OverlayWriter(path, 10) as writer:
        for i in range(2 * rate):
            writer.write(np.zeros((48, 64, 3), np.uint8), i / rate)
    frames = int(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT))
    assert abs(frames - expected) <= 2
