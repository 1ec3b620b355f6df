"""Thresholds are those of the gallery as it is now, whoever changes it; people have a kind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, face
from test_identify import BLUE, GREEN, RED, Colours, Scripted, enroll, painted

from edgeface.calibrate import calibrate
from edgeface.describe import Describer
from edgeface.gallery import Gallery, Growth, GrowthRules
from edgeface.identify import Identifier
from edgeface.models import ModelCard, load_card
from edgeface.settings import Settings
from edgeface.thresholds import CALIBRATION, LINKING_FPIR, ThresholdProvider
from edgeface.types import Event, Frame, Kind, Status, Template, Threshold

CURVE = calibrate(np.random.default_rng(0).normal(0, 0.2, 5000), fpir=1e-3, size=1)
SIZE = 3


@pytest.fixture
def detector() -> Scripted:
    return Scripted()


@pytest.fixture
def app(tmp_path: Path, detector: Scripted, embedding_card: ModelCard):
    """An identifier whose thresholds come from a measured curve."""
    gallery = Gallery.open(tmp_path / "people.gallery", model="colours", size=SIZE)
    gallery.write_note(CALIBRATION, CURVE.to_json())
    embedder = Colours(replace(embedding_card, threshold=Threshold(0.9, "card")))
    # Painted faces are not sharp.
    settings = Settings(growth=GrowthRules(quality=0.2), motion=None)
    with Identifier(Describer(detector, embedder), gallery, settings) as it:
        yield it


@pytest.fixture
def show(app: Identifier, detector: Scripted) -> Callable[..., list[Event]]:
    clock = iter(range(10_000))

    def step(*people, at: float | None = None) -> list[Event]:
        detector.faces = [f for f, _ in people]
        index = next(clock)
        time = index * 0.04 if at is None else at
        return app.step(Frame(painted(*people), time, index))

    return step


def crowd(gallery: Gallery, n: int) -> None:
    """Enrol n people whom no painted face resembles: they look the other way."""
    rows = -np.abs(np.random.default_rng(n).normal(1, 0.2, (n, SIZE)))
    for i, row in enumerate(rows):
        gallery.enroll(f"crowd-{n}-{i}", row / np.linalg.norm(row))


def one_face(show: Callable[..., list[Event]], x: float, frames: int = 4) -> list[Event]:
    return [e for _ in range(frames) for e in show((face(x, 60, 90), RED))]


def test_the_next_event_has_the_threshold_of_the_gallery_as_it_is(app, show, detector) -> None:
    enroll(app, detector, "Alice", RED)
    first = one_face(show, 100)[-1].decision
    assert first.threshold == app.threshold
    assert first.threshold.origin.endswith("@N=1")
    crowd(app.gallery, 40)  # in this process
    grown = one_face(show, 400)[-1].decision
    assert grown.threshold == app.threshold
    assert grown.threshold.origin.startswith("calibrated:fpir=1e-3@N=41")
    assert grown.threshold.value > first.threshold.value + 0.05


def test_what_another_process_does_counts_at_the_next_event(app, show, detector) -> None:
    enroll(app, detector, "Alice", RED)
    one_face(show, 100)
    tougher = replace(CURVE, fpir=1e-4, value=0.97)
    program = (
        "import sys; from edgeface.gallery import Gallery\n"
        "with Gallery.open(sys.argv[1]) as g: g.write_note('calibration', sys.argv[2])"
    )
    path = str(app.gallery._db.place)
    command = [sys.executable, "-c", program, path, tougher.to_json()]
    subprocess.run(command, check=True, cwd=ROOT)
    made = one_face(show, 400)[-1].decision
    assert made.threshold == Threshold(0.97, "calibrated:fpir=1e-4@N=1") == app.threshold


def test_enrolling_and_calibrating_keep_the_tracks(app, show, detector) -> None:
    enroll(app, detector, "Alice", RED)
    one_face(show, 100)
    enroll(app, detector, "Bob", GREEN)
    detector.faces = [face(100, 60, 120)]
    rng = np.random.default_rng(3)
    colours = [tuple(rng.integers(20, 220, 3).tolist()) for _ in range(40)]
    app.calibrate([painted((detector.faces[0], c)) for c in colours], fpir=0.1)
    assert one_face(show, 100) == []
    assert [(s.track, s.decision.name) for s in app.sightings] == [(1, "Alice")]
    app.reset()
    assert {e.track for e in one_face(show, 100)} == {2}, "a track's id never returns"


def test_somebody_forgotten_is_gone_from_the_next_frames(app, show, detector) -> None:
    enroll(app, detector, "Alice", RED)
    crowd(app.gallery, 1)
    events = one_face(show, 100, 30)
    assert events[-1].decision.name == "Alice"
    app.gallery.forget("Alice")
    dark = (face(100, 60, 90), (60, 60, 60))  # nothing new to go by
    events = [e for _ in range(8) for e in show(dark)]
    assert [(str(e.kind), e.decision.name) for e in events] == [("changed", None)]


def test_strangers_leave_the_threshold_of_the_known_alone(app, detector) -> None:
    enroll(app, detector, "Alice", RED)
    before = app.threshold
    rows = np.random.default_rng(5).normal(size=(60, SIZE))
    for row in rows / np.linalg.norm(rows, axis=1, keepdims=True):
        app.gallery.add_stranger(row.astype(np.float32))
    limits = app._thresholds()
    assert app.threshold == before == limits.known
    assert limits.stranger.value == pytest.approx(CURVE.value_at(60, fpir=LINKING_FPIR), abs=1e-4)
    assert limits.stranger.origin == "linking:fpir=0.01@N=60"
    # Nor do they count where the threshold is measured.
    detector.faces = [face(100, 60, 120)]
    rng = np.random.default_rng(3)
    colours = [tuple(rng.integers(20, 220, 3).tolist()) for _ in range(40)]
    cohort = [painted((detector.faces[0], c)) for c in colours]
    result = app.calibrate(cohort, fpir=0.1)
    (alice,) = (s.embedding for s in app.gallery.samples("Alice"))
    best = [float(f.embedding @ alice) for c in cohort for f in app.faces(c)]
    assert result.value == pytest.approx(calibrate(best, fpir=0.1, size=1).value, abs=1e-6)


def test_strangers_and_the_shipped_model(tmp_path: Path) -> None:
    card = load_card("mobilefacenet", "embedding", verify=False)
    rng = np.random.default_rng(1)
    with Gallery.open(tmp_path / "g", model=card.digest, size=card.size) as gallery:
        thresholds = ThresholdProvider(gallery, card)
        gallery.enroll("Alice", rng.standard_normal(card.size))
        before = thresholds()
        for row in rng.standard_normal((50, card.size)):
            gallery.add_stranger(row)
        after = thresholds()
        assert after.known == before.known
        assert after.stranger.value > before.stranger.value
        gallery.rename("stranger-7", "Bob")
        assert thresholds().known.value > before.known.value
        assert (gallery.count(Kind.KNOWN), gallery.count(Kind.STRANGER)) == (2, 49)


def test_a_learnt_stranger_is_announced_as_one(app, show) -> None:
    events = []
    for i in range(40):
        events += show((face(100, 60, 90), BLUE), at=0.1 * i)
    (last,) = events[-1:]
    assert (last.decision.name, last.decision.status) == ("stranger-1", Status.STRANGER)
    line = last.to_dict()
    assert (line["status"], line["kind"], line["person_id"]) == ("stranger", "stranger", 1)
    assert line["threshold_origin"].startswith("linking:")
    assert not [e for e in events if e.decision.status is Status.MATCH]
    app.gallery.rename("stranger-1", "Bob")
    events = [e for i in range(8) for e in show((face(100, 60, 90), BLUE), at=4 + 0.1 * i)]
    assert [(str(e.kind), e.decision.name) for e in events] == [("changed", "Bob")]
    assert (events[0].decision.kind, events[0].decision.status) == (Kind.KNOWN, Status.MATCH)


def test_while_nothing_changes_nothing_is_read(app, detector, monkeypatch) -> None:
    enroll(app, detector, "Alice", RED)
    limits = app._thresholds()

    def refuse(*_: object) -> None:
        raise AssertionError("the gallery was read")

    monkeypatch.setattr(app.gallery._db, "snapshot", refuse)
    assert all(app._thresholds() is limits for _ in range(100))
    assert app.gallery.count(Kind.KNOWN) == 1


def test_the_rate_at_which_strangers_join_is_that_of_the_strangers_alone(tmp_path: Path) -> None:
    asked: list[int] = []
    with Gallery.open(tmp_path / "g", model="m", size=SIZE) as gallery:
        crowd(gallery, 20)
        gallery.add_stranger([1.0, 0.0, 0.0])
        growth = Growth(gallery, linking=lambda n: asked.append(n) or 0.5)
        template = Template(np.array([1, 0, 0], np.float32), 0.9, 4.0, 5)
        match = growth.see(1, template, time=0.0, threshold=Threshold(0.4, "user"))
    assert match is not None and match.kind is Kind.STRANGER
    assert set(asked) == {1}
