"""What the video bench composes and how it keeps the score."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the bench takes its clips from the workshop")

from bench.video_clips import HEIGHT, WIDTH, Footage, Walk, Watched, paste, script, told, whose
from edgeface.types import Decision, Face, Sighting, Status, Threshold

CROPS = np.full((3, 112, 112, 3), 200, np.uint8)


def walk(person: str, begin: float = 0.0, end: float = 10.0, x: float = 100.0) -> Walk:
    start, stop = np.array([x, 100.0, 60.0]), np.array([x + 200, 100.0, 60.0])
    return Walk(person, CROPS, begin, end, start, stop, 0.0)


def sighting(x: float, y: float) -> Sighting:
    box = np.array([x - 20, y - 25, x + 20, y + 25], np.float32)
    decision = Decision(Status.UNKNOWN, None, None, 0.1, 0.1, Threshold(0.4, "user"))
    return Sighting(Face(box, np.zeros((5, 2), np.float32), 0.9), decision, 1)


def test_a_sighting_belongs_to_the_nearest_walk_in_view() -> None:
    walks = [walk("Ann"), walk("Bob", x=400.0), walk("Cid", begin=5.0)]
    assert whose(sighting(105, 100), walks, 0.0) == 0
    assert whose(sighting(405, 100), walks, 0.0) == 1
    assert whose(sighting(250, 100), walks, 0.0) is None
    assert whose(sighting(200, 100), walks, 5.0) == 0
    assert whose(sighting(105, 100), walks, 5.0) == 2


def test_a_face_is_pasted_where_its_walk_is_and_nowhere_else() -> None:
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    paste(picture, CROPS[0], np.array([300.0, 150.0, 60.0]), 0.0)
    changed = np.argwhere(picture.any(axis=2))
    assert picture[150, 300].min() >= 199
    np.testing.assert_allclose(changed.mean(axis=0), [150, 300], atol=1.5)
    assert np.ptp(changed[:, 1]) < 90
    paste(picture, CROPS[0], np.array([-200.0, 150.0, 60.0]), 0.0)  # out of view


def test_a_script_has_both_kinds_and_somebody_who_returns() -> None:
    row = np.zeros((3, 4), np.float32)
    people = [f"p{i}" for i in range(10)]
    footage = [Footage(p, CROPS, row, np.ones(3, np.float32)) for p in people for _ in range(2)]
    cast = [w.person for w in script(footage, np.random.default_rng(0))]
    known = set(people[::2])
    assert len(cast) == 8
    assert len(set(cast)) == 6
    assert sum(p in known for p in cast) == 4


def test_the_score_of_a_clip() -> None:
    notes = [
        (walk("Ann"), Watched([1], [None, "Ann"], 2.0)),
        (walk("Ann"), Watched([2, 3], [None, "Bob", None])),
        (walk("Zoe"), Watched([4], [None])),
        (walk("Yan"), Watched([5], [None, "Ann"])),
    ]
    figures = told(notes, {"Ann", "Bob"})
    assert figures["identified"] == figures["ever_identified"] == 50.0
    assert figures["to_name_s"] == 2.0
    assert figures["mixed_up_per_hour"] == pytest.approx(1 / (20 / 3600))
    assert figures["false_per_hour"] == pytest.approx(1 / (20 / 3600))
    assert figures["strangers_named"] == 50.0
    assert figures["switches"] == 0.25
    assert figures["seen"] == 100.0
