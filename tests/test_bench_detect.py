"""bench.detect_*: the pictures are what their names say, the figures count what they say."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import face

from bench import detect_clips, detect_pictures
from bench.pipeline_clips import Clip
from edgeface.track import TrackerOptions
from edgeface.types import Face, Frame
from export.yolo import LAYERS, _decoded


def squares(size=(250, 250)):
    """A picture with one bright box, and a face that has it."""
    image = np.zeros((*size, 3), np.uint8)
    image[80:180, 90:170] = 255
    return image, Face(np.array([90, 80, 170, 180], np.float32), np.zeros((5, 2), np.float32), 0.9)


def box_of(image):
    rows, columns = np.nonzero(image[..., 0] > 128)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.mark.parametrize("share", detect_pictures.SHARES)
def test_a_close_up_fills_the_share_of_the_picture(share):
    x1, y1, x2, y2 = box_of(detect_pictures.close_up(*squares(), share))
    assert (y2 - y1) / detect_pictures.CLOSE_SIDE == pytest.approx(share, abs=0.02)
    assert (x1 + x2) / 2 == pytest.approx(detect_pictures.CLOSE_SIDE / 2, abs=12)


@pytest.mark.parametrize("degrees", detect_pictures.TURNS)
def test_a_turned_picture_keeps_all_of_it(degrees):
    image, _ = squares((250, 300))
    image[:] = 0
    cv2.circle(image, (280, 20), 10, (255,) * 3, -1)  # near the upper right corner
    out = detect_pictures.turned(image, degrees)
    lit = (out[..., 0] > 128).sum() / (image[..., 0] > 128).sum()
    assert lit == pytest.approx(1, abs=0.15)
    x1, y1, x2, y2 = box_of(out)
    place = np.array([(x1 + x2) / 2, (y1 + y2) / 2]) - [out.shape[1] / 2, out.shape[0] / 2]
    turn = np.deg2rad(-degrees)  # anticlockwise, y down
    wanted = [
        [np.cos(turn), -np.sin(turn)],
        [np.sin(turn), np.cos(turn)],
    ] @ np.array([130.0, -105.0])
    np.testing.assert_allclose(place, wanted, atol=3)


def test_the_best_face_is_the_largest_sure_one():
    leg, near, far = face(0, 0, 200, score=0.6), face(0, 0, 80), face(0, 0, 40, score=0.99)
    assert detect_pictures.best([leg, near, far]) is near
    assert detect_pictures.best([leg, face(0, 0, 10, score=0.4)]) is leg
    assert detect_pictures.best([]) is None


def test_boxes_and_points_of_version_five_are_read_back():
    """A cell coded by hand: middle (100, 60), 20 x 30 px, stride 8, second anchor."""
    _, stride, anchors = LAYERS[0]
    columns, rows = 20, 12
    out = np.full((3, columns * rows, 16), -9.0, np.float32)
    column, row, anchor = 12, 7, np.array(anchors[1], np.float32)

    def logit(p):
        return np.log(p / (1 - p))

    cell = out[1, row * columns + column]
    offset = np.array([100 / stride - column, 60 / stride - row])
    cell[:2] = logit((offset + 0.5) / 2)
    cell[2:4] = logit(np.sqrt([20, 30] / anchor) / 2)
    points = np.array([[95, 55], [105, 55], [100, 60], [96, 66], [104, 66]], np.float32)
    cell[5:15] = ((points - np.array([column, row]) * stride) / anchor).ravel()
    cell[4], cell[15] = logit(0.9), logit(0.8)
    (found,) = _decoded(out, stride, anchors, columns)
    np.testing.assert_allclose(found[0], 0.72, atol=1e-5)
    np.testing.assert_allclose(found[1:5], [90, 45, 110, 75], atol=1e-3)
    np.testing.assert_allclose(found[5:], points.ravel(), atol=1e-3)


def test_found_is_what_two_others_agree_on_and_alone_what_neither_sees():
    first = np.array([[0, 0, 40, 40], [100, 0, 140, 40], [200, 0, 210, 10]], np.float32)
    second = np.array([[2, 2, 42, 42], [200, 0, 210, 10], [300, 0, 340, 40]], np.float32)
    ours = np.array([[1, 1, 41, 41], [300, 0, 340, 40], [0, 200, 40, 240]], np.float32)
    tally = detect_clips.Tally()
    tally.add(ours, first, second)
    assert (tally.wanted, tally.found, tally.ours, tally.alone) == (1, 1, 3, 1)
    tally.add(ours[:0], first, second)
    assert tally.figures("x") == {"x.recall": 0.5, "x.alone": pytest.approx(1 / 3)}


class Scripted:
    """A detector that sees at every call what its script says."""

    max_side, any_size = 640, False

    def __init__(self, *script):
        self.script = list(script)

    def __call__(self, image):
        return self.script.pop(0)


def test_a_followed_face_counts_once_its_track_is_confirmed_and_while_it_is_weak():
    strong, weak = face(40, 40, 60, score=0.9), face(40, 40, 60, score=0.35)
    detector = Scripted([strong], [strong], [strong], [weak], [weak], [])
    follow = detect_clips.Followed(detector, TrackerOptions(high=0.5, low=0.0))
    noise = np.random.default_rng(0).integers(0, 256, (6, 240, 320, 3), np.uint8)
    shown = [follow(Frame(image, i / 10, i)) for i, image in enumerate(noise)]
    assert [len(s) for s in shown] == [0, 0, 1, 1, 1, 0]


def test_who_is_not_found_is_accepted_with_nobody(tmp_path):
    """Four people with two pictures each; every face is found, or one of each person's is not."""
    files = []
    for person in range(4):
        for picture in range(2):
            file = tmp_path / str(person) / f"{picture}.png"
            file.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(file), np.full((100, 100, 3), 60 * person + 20 * picture + 1, np.uint8))
            files.append(file)

    class Embedder:
        size = 4

        def __call__(self, crops):
            return np.eye(4, dtype=np.float32)[[int(crops[0].max()) // 60]]

    def all_of_them(image):
        return [face(30, 30, 40), face(0, 0, 20, score=0.99)]

    def every_second(image):
        return [] if image[0, 0, 0] % 60 > 10 else all_of_them(image)

    out = detect_pictures.people({"": all_of_them, "_x": every_second}, Embedder(), files)
    assert (out["detect.people.tar_far1e-4"], out["detect.people.missed"]) == (100, 0)
    assert (out["detect.people.tar_far1e-4_x"], out["detect.people.missed_x"]) == (0, 4)


def test_names_on_the_stage_are_counted_by_person():
    people = (Path("ann.png"), Path("bea.png"))
    clip = Clip("x", Path("x"), people, lambda index, box: "ann" if box[0] < 320 else "bea")
    seen = [
        [0, 10, 0, 20, 10, "ann"],
        [1, 10, 0, 20, 10, "ann"],
        [1, 800, 0, 820, 10, "bea"],  # of a frame 1280 wide
        [2, 10, 0, 20, 10, "bea"],
        [2, 10, 0, 20, 10, None],
    ]
    assert detect_clips.named(clip, seen, 1280) == {"named.ann": 2, "named.bea": 1, "wrong": 1}
