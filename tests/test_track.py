"""Scripted scenes: the state of every track after every frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from conftest import face

from edgeface.errors import ArgumentError
from edgeface.track import SceneCut, State, Track, Tracker, TrackerOptions, buffered_iou
from edgeface.types import Face

STEP = 0.04


def states(tracks: Sequence[Track]) -> dict[int, str]:
    return {t.id: str(t.state) for t in tracks}


def play(
    tracker: Tracker, frames: Sequence[Sequence[Face]], start: float = 0.0
) -> list[list[Track]]:
    return [tracker.update(faces, start + i * STEP) for i, faces in enumerate(frames)]


def test_a_face_is_confirmed_at_its_third_sighting() -> None:
    told = play(Tracker(), [[face(100, 50)], [face(102, 50)], [face(104, 51)]])
    assert [states(t) for t in told] == [{1: "tentative"}, {1: "tentative"}, {1: "confirmed"}]
    assert told[-1][0].hits == 3
    assert told[-1][0].first_seen == 0.0


def test_a_flicker_never_becomes_a_track() -> None:
    told = play(Tracker(), [[face(100, 50)], [], [face(400, 50)], []])
    assert [states(t) for t in told] == [
        {1: "tentative"},
        {1: "removed"},
        {2: "tentative"},
        {2: "removed"},
    ]


def test_a_fast_face_keeps_its_track() -> None:
    told = play(Tracker(), [[face(20 + 24 * i, 50, 30)] for i in range(20)])
    assert states(told[-1]) == {1: "confirmed"}


def test_a_hidden_face_is_lost_found_and_in_the_end_removed() -> None:
    tracker = Tracker(TrackerOptions(patience=1.0))
    play(tracker, [[face(100, 50)]] * 3)
    assert states(tracker.update([], 0.2)) == {1: "lost"}
    assert states(tracker.update([face(105, 50)], 0.3)) == {1: "confirmed"}
    assert states(tracker.update([], 1.2)) == {1: "lost"}
    assert states(tracker.update([], 1.5)) == {1: "removed"}
    assert states(tracker.update([], 1.6)) == {}


def test_a_weak_face_keeps_a_track_alive_but_starts_none() -> None:
    tracker = Tracker()
    play(tracker, [[face(100, 50)]] * 3)
    told = tracker.update([face(101, 50, score=0.4), face(300, 50, score=0.4)], 0.12)
    assert states(told) == {1: "confirmed"}
    assert told[0].weak
    assert states(tracker.update([face(101, 50, score=0.2)], 0.16)) == {1: "lost"}


def test_two_people_crossing_keep_their_tracks() -> None:
    frames = [[face(50 + 6 * i, 50), face(290 - 6 * i, 95)] for i in range(40)]
    told = play(Tracker(), frames)
    assert states(told[-1]) == {1: "confirmed", 2: "confirmed"}
    first = next(t for t in told[-1] if t.id == 1)
    assert first.face.box[0] == pytest.approx(50 + 6 * 39)


def test_one_face_never_serves_two_tracks() -> None:
    tracker = Tracker()
    play(tracker, [[face(100, 50), face(160, 50)]] * 3)
    assert states(tracker.update([face(130, 50)], 0.12)) in (
        {1: "confirmed", 2: "lost"},
        {1: "lost", 2: "confirmed"},
    )


def looks(vector: Sequence[float]):
    unit = np.array(vector, np.float32) / np.linalg.norm(vector)
    return lambda faces: np.stack([unit] * len(faces))


def test_a_returning_face_rejoins_by_its_looks_only() -> None:
    for vector, expected in [([1, 0.1], {1: "confirmed"}), ([0, 1], {1: "lost", 2: "tentative"})]:
        tracker = Tracker()
        play(tracker, [[face(100, 50)]] * 3)
        tracker.remember(1, np.array([1, 0], np.float32))
        tracker.update([], 0.2)
        assert states(tracker.update([face(500, 200)], 0.4, looks(vector))) == expected


def test_looks_are_asked_for_only_when_somebody_is_missing() -> None:
    def never(faces: Sequence[Face]) -> np.ndarray:
        raise AssertionError("nobody is lost")

    tracker = Tracker()
    for i in range(4):
        tracker.update([face(100, 50)], i * STEP, never)
    tracker.update([face(100, 50), face(300, 50)], 5 * STEP, never)


def test_a_track_that_changed_hands_goes_on_under_a_new_id() -> None:
    tracker = Tracker()
    play(tracker, [[face(100, 50)]] * 3)
    assert tracker.split(1) == 2
    assert states(tracker.update([face(101, 50)], 0.12)) == {1: "lost", 2: "confirmed"}
    with pytest.raises(ArgumentError, match="no track"):
        tracker.split(99)


def test_after_a_cut_place_says_nothing() -> None:
    tracker = Tracker()
    play(tracker, [[face(100, 50)]] * 3)
    tracker.remember(1, np.array([1, 0], np.float32))
    tracker.cut()
    assert states(tracker.update([face(100, 50)], 0.12, looks([0, 1]))) == {
        1: "lost",
        2: "tentative",
    }
    assert states(tracker.update([face(100, 50), face(300, 9)], 0.16, looks([1, 0]))) == {
        1: "confirmed",
        2: "tentative",
    }


def test_everything_ends_when_time_does() -> None:
    tracker = Tracker()
    play(tracker, [[face(100, 50)]] * 3)
    assert states(tracker.update([], float("inf"))) == {1: "removed"}


def test_overlap_of_buffered_boxes() -> None:
    a = np.array([[0, 0, 10, 10]], np.float32)
    apart = np.array([[14, 0, 24, 10], [40, 0, 50, 10]], np.float32)
    assert buffered_iou(a, a)[0, 0] == pytest.approx(1.0)
    assert buffered_iou(a, apart)[0, 0] > 0
    assert buffered_iou(a, apart)[0, 1] == 0
    assert buffered_iou(a, apart, buffer=0.0)[0, 0] == 0


def test_scene_cut_sees_a_change_of_scene_and_no_slow_motion() -> None:
    cut = SceneCut()
    dark, light = np.zeros((36, 64, 3), np.uint8), np.full((36, 64, 3), 120, np.uint8)
    assert [cut(dark), cut(dark), cut(light), cut(light - 5)] == [False, False, True, False]


def test_state_is_told_for_the_last_time_when_removed() -> None:
    tracker = Tracker(TrackerOptions(confirm=1))
    assert states(tracker.update([face(1, 1)], 0.0)) == {1: "confirmed"}
    assert tracker.update([], 9.0)[0].state is State.REMOVED
    assert tracker.update([], 9.1) == []
