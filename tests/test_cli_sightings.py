"""`edgeface sightings`, `gallery show`, `gallery ignore`: what they refuse and what they erase."""

from datetime import UTC, datetime

import cv2
import numpy as np
import pytest

from edgeface.gallery import Gallery
from edgeface.sightings import Sightings
from edgeface.types import Decision, Event, EventKind, Kind, Status, Template, Threshold


@pytest.fixture
def gallery(tmp_path):
    """A gallery with Ann, who was before the door once."""
    row = np.eye(8, dtype=np.float32)[0]
    with Gallery.open(tmp_path / "g.gallery", model="m", size=8) as opened:
        ann = opened.enroll("Ann", [row])
        opened.enroll("Ben", [row[::-1]])
        with Sightings.open(opened) as store:
            decision = Decision(
                Status.MATCH, "Ann", ann.id, 0.9, 0.5, Threshold(0.4, "card"), Kind.KNOWN
            )
            seen, _ = store.record(
                Event(
                    EventKind.LOST, 1, 0.0, 0, np.zeros(4, np.float32), decision, "door",
                    datetime.now(UTC), (64, 48), "r-1", "r", Template(row, 1.0, 1.0, 1),
                )
            )  # fmt: skip
            picture = np.full((40, 30, 3), 90, np.uint8)
            store.keep_crop(
                seen, cv2.imencode(".jpg", picture)[1].tobytes(), 0.5, datetime.now(UTC)
            )
    return str(tmp_path / "g.gallery")


def test_who_was_there_is_listed_and_forgotten(gallery, tmp_path, run) -> None:
    code, rows, _ = run("sightings", gallery, "--json")
    assert code == 0 and '"name": "Ann"' in rows and '"image": true' in rows
    assert run("sightings", gallery, "--kind", "unknown", "--json")[1] == ""
    assert run("gallery", "show", gallery, "Ann", "--out", str(tmp_path / "a.jpg"))[0] == 0
    assert cv2.imread(str(tmp_path / "a.jpg")).shape == (128, 128, 3)
    assert run("gallery", "forget", gallery, "Ann")[0] == 0
    assert run("sightings", gallery, "--json")[1] == ""


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["sightings", "G", "--kind", "friend"], 1, "there is no kind 'friend'"),
        (["sightings", "G", "--since", "soon"], 2, "--since is 'soon'"),
        (["sightings", "G", "--person", "An"], 1, "did you mean 'Ann'"),
        (["sightings", "G.gone"], 2, "there is no gallery"),
        (["gallery", "show", "G", "Ben", "--out", "b.jpg"], 1, "no picture of 'Ben' was kept"),
        (["gallery", "ignore", "G", "Cleo"], 1, "nobody is called 'Cleo'"),
        (["identify", "--video", "x.mp4", "--sightings"], 2, "name one with --gallery"),
        (["identify", "x.jpg", "--sightings", "-g", "G"], 2, "--sightings: only for a video"),
    ],
)
def test_what_cannot_be_is_said(gallery, run, words, code, says) -> None:
    words = [word.replace("G", gallery, 1) if word[0] == "G" else word for word in words]
    got, _, messages = run(*words)
    assert (got, says in messages) == (code, True), messages


def test_a_gallery_without_sightings_says_how_to_keep_them(tmp_path, run) -> None:
    with Gallery.open(tmp_path / "g.gallery", model="m", size=8) as opened:
        opened.enroll("Ann", [np.eye(8)[0]])
    code, _, messages = run("sightings", str(tmp_path / "g.gallery"))
    assert code == 2 and "--sightings" in messages
