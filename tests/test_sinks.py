"""Where events go. A sink that a user adds is one class; the same watch feeds it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import face
from test_identify import BLUE, RED, Colours, Scripted, enroll, painted

from edgeface.describe import Describer
from edgeface.errors import ArgumentError, SourceError
from edgeface.gallery import Gallery
from edgeface.identify import Identifier
from edgeface.models import ModelCard
from edgeface.settings import Settings
from edgeface.sinks import Sinks
from edgeface.sinks.lines import Lines
from edgeface.sinks.overlay import Overlay
from edgeface.types import Event, Frame, Sighting, Threshold


class Kept:
    """All that an added sink takes: this one keeps what it is given."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.frames = 0
        self.closed = False

    def publish(self, event: Event) -> None:
        self.told.append((str(event.kind), event.track))

    def show(self, frame: Frame, sightings: Sequence[Sighting]) -> None:
        self.frames += 1

    def close(self) -> None:
        self.closed = True


class Broken:
    """A sink that fails at everything."""

    def publish(self, event: Event) -> None:
        raise OSError("the wire is cut")

    def show(self, frame: Frame, sightings: Sequence[Sighting]) -> None:
        raise RuntimeError("the disk is full")

    def close(self) -> None:
        raise RuntimeError("the disk is full")


@pytest.fixture
def app(tmp_path: Path, embedding_card: ModelCard):
    detector = Scripted()
    gallery = Gallery.open(tmp_path / "people.gallery", model="colours", size=3)
    limit = Threshold(0.8, "user")
    describer = Describer(detector, Colours(embedding_card))
    with Identifier(describer, gallery, Settings(motion=None), threshold=limit) as it:
        enroll(it, detector, "Alice", RED)
        detector.faces = [face(100, 60, 90), face(400, 60, 90)]
        yield it


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures in which Alice and a stranger stand."""
    (tmp_path / "frames").mkdir()
    picture = painted((face(100, 60, 90), RED), (face(400, 60, 90), BLUE))
    for index in range(6):
        cv2.imwrite(str(tmp_path / "frames" / f"{index}.png"), picture)
    return tmp_path / "frames"


ALL = [("seen", 1), ("identified", 1), ("seen", 2), ("lost", 1), ("lost", 2)]


def test_a_sink_gets_every_event_and_frame_and_its_owner_closes_it(app, folder: Path) -> None:
    sink = Kept()
    events = list(app.watch(folder, sinks=[sink]))
    assert sink.told == [(str(e.kind), e.track) for e in events] == ALL
    assert (sink.frames, sink.closed) == (6, False)
    with Sinks([sink]):
        pass
    assert sink.closed


def test_what_one_sink_raises_is_logged_and_the_others_go_on(app, folder: Path, caplog) -> None:
    sink, both = Kept(), Sinks([Broken()])
    with both:
        assert len(list(app.watch(folder, sinks=[both, sink]))) == len(ALL)
    assert sink.told == ALL
    assert {str(f) for f in both.failures} == {"the wire is cut", "the disk is full"}
    assert caplog.text.count("Broken failed: the disk is full") == 1


@pytest.mark.parametrize("how", ["break", "close", "stop", "interrupt"])
def test_however_a_watch_ends_every_track_is_lost(app, folder: Path, how: str) -> None:
    sink = Kept()
    asked = iter([False] * 4 + [True] * 9)

    def on_frame(frame: Frame, _: list[Sighting]) -> None:
        if how == "interrupt" and frame.index == 3:
            raise KeyboardInterrupt

    stop = (lambda: next(asked)) if how == "stop" else None
    events = app.watch(folder, sinks=[sink], on_frame=on_frame, should_stop=stop)
    if how == "interrupt":
        with pytest.raises(KeyboardInterrupt):
            list(events)
    elif how == "stop":
        assert [(str(e.kind), e.track) for e in events] == ALL
    else:
        for number, _ in enumerate(events):
            if number == 2:
                break
        if how == "close":
            events.close()
        del events
    assert sink.told == ALL
    assert app.sightings == []


def test_a_source_that_fails_loses_its_tracks_first(app, folder: Path, tmp_path: Path) -> None:
    (folder / "9.png").write_bytes(b"")
    told = []
    with pytest.raises(SourceError, match="could not be read"):
        for event in app.watch(folder):
            told.append((str(event.kind), event.track))
    assert told == ALL


def test_lines_are_events(app, folder: Path) -> None:
    stream = io.StringIO()
    events = list(app.watch(folder, name="door", sinks=[Lines(stream)]))
    rows = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert rows == [json.loads(e.to_json()) for e in events]
    assert {r["camera"] for r in rows} == {"door"}
    ids = [r["id"] for r in rows]
    assert ids == sorted(set(ids))
    assert {r["size"][0] for r in rows} == {600}
    lost = rows[-1]
    assert (lost["frame"], lost["time"]) == (5, 0.2)
    assert lost["ts"].endswith("Z") and len(lost["ts"]) == len("2026-03-01T09:30:00.125Z")


def test_ids_and_tracks_do_not_return_with_the_next_watch(app, folder: Path) -> None:
    first, second = list(app.watch(folder)), list(app.watch(folder))
    assert not {e.id for e in first} & {e.id for e in second}
    assert {e.track for e in first} == {1, 2}
    assert {e.track for e in second} == {3, 4}


def test_an_overlay_is_finished_whatever_ends_the_watch(app, folder: Path, tmp_path: Path) -> None:
    (folder / "9.png").write_bytes(b"")
    with (
        pytest.raises(SourceError, match="could not be read"),
        Sinks([Overlay(tmp_path / "o.mp4", 25)]) as all_,
    ):
        list(app.watch(folder, sinks=[all_]))
    assert int(cv2.VideoCapture(str(tmp_path / "o.mp4")).get(cv2.CAP_PROP_FRAME_COUNT)) == 6


def test_what_is_no_frame_and_what_runs_backwards_is_refused(app) -> None:
    image = np.zeros((300, 600, 3), np.uint8)
    with pytest.raises(ArgumentError, match=r"Frame\(image"):
        app.step(image)
    app.step(Frame(image, 2.0, 0))
    with pytest.raises(ArgumentError, match="must not decrease"):
        app.step(Frame(image, 1.0, 1))
    app.reset()
    app.step(Frame(image, 1.0, 1))
    with pytest.raises(ArgumentError, match="every is 0"):
        app.watch("nowhere", every=0)
    with pytest.raises(SourceError):
        list(app.watch("nowhere"))
