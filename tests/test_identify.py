"""The composition, with a scripted detector and an embedder that reads the colour of a face."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import face

from edgeface.calibrate import calibrate
from edgeface.cohort import Cohort
from edgeface.describe import Describer, find
from edgeface.errors import ArgumentError, CalibrationError, GalleryError, ImageError
from edgeface.follow import HEARD
from edgeface.gallery import Gallery, GrowthRules
from edgeface.identify import Identifier
from edgeface.models import Impostors, ModelCard
from edgeface.recognisability import ENROLLED, Verdict
from edgeface.settings import Settings
from edgeface.sightings.company import Company
from edgeface.submodels import Rule, SubmodelBank
from edgeface.trace import Trace
from edgeface.track import TrackerOptions
from edgeface.types import Event, Face, Flaw, Frame, Kind, Sighting, Status, Threshold

RED, GREEN, BLUE = (30, 30, 220), (30, 200, 30), (220, 40, 30)
TEXTURE = cv2.resize(
    np.random.default_rng(1).integers(0, 90, (60, 60, 3), dtype=np.uint8),
    (240, 240),
    interpolation=cv2.INTER_NEAREST,
)


class Colours:
    """An embedder: the mean colour of the crop's middle as a unit vector."""

    size = 3

    def __init__(self, card: ModelCard) -> None:
        self.card = card

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        rows = crops[:, 40:90, 30:80].reshape(len(crops), 2500, 3).mean(1) - 60
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
        return rows.astype(np.float32)

    def measure(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self(crops), np.ones(len(crops), np.float32)


class Scripted:
    """A detector that knows where the painted faces are."""

    max_side, any_size = 640, False

    def __init__(self) -> None:
        self.faces: list[Face] = []
        self.closer: dict[int, Face] = {}  # what a closer look at some of them shows

    def __call__(self, image: np.ndarray) -> list[Face]:
        return self.faces

    def within(self, image: np.ndarray, part, ratio: float) -> list[Face]:
        return self.faces

    def search(self, image: np.ndarray) -> list[Face]:
        return [self.refine(image, f) for f in self.faces]

    def refine(self, image: np.ndarray, face: Face) -> Face:
        return self.closer.get(id(face), face)


def painted(*people: tuple[Face, tuple[int, int, int]]) -> np.ndarray:
    image = np.full((300, 600, 3), 60, np.uint8)
    for f, colour in people:
        x1, y1, x2, y2 = (int(v) for v in f.box)
        patch = image[max(y1, 0) : y2, max(x1, 0) : x2]
        height, width = patch.shape[:2]
        tint = np.array(colour, np.int16) + TEXTURE[:height, :width] - 45
        patch[:] = np.clip(tint, 0, 255)
    return image


@pytest.fixture
def detector() -> Scripted:
    return Scripted()


@pytest.fixture
def app(tmp_path: Path, detector: Scripted, embedding_card: ModelCard) -> Iterator[Identifier]:
    gallery = Gallery.open(tmp_path / "people.gallery", model="colours", size=3)
    threshold = Threshold(0.8, "user")
    options = TrackerOptions(high=0.6, low=0.3, rejoin=0.8)
    embedder = Colours(embedding_card)
    settings = Settings(tracking=options, motion=None)  # the script says what a frame shows
    describer = Describer(detector, embedder)
    with Identifier(describer, gallery, settings, threshold=threshold) as it:
        yield it


@pytest.fixture
def show(app: Identifier, detector: Scripted) -> Callable[..., list[Event]]:
    """Show one frame with the given (face, colour) pairs at a time; returns the events."""
    clock = iter(range(10_000))

    def step(*people: tuple[Face, tuple[int, int, int]]) -> list[Event]:
        detector.faces = [f for f, _ in people]
        index = next(clock)
        return app.step(Frame(painted(*people), index * 0.04, index))

    return step


def enroll(app: Identifier, detector: Scripted, name: str, colour: tuple[int, int, int]) -> None:
    detector.faces = [face(100, 60, 120)]
    app.enroll(name, [painted((detector.faces[0], colour))])


def told(events: list[Event]) -> list[tuple[str, int, str | None]]:
    return [(str(e.kind), e.track, e.decision.name) for e in events]


def test_a_known_face_is_seen_and_named_and_a_stranger_only_seen(app, detector, show) -> None:
    enroll(app, detector, "Alice", RED)
    events = [
        e for i in range(12) for e in show((face(100 + i, 60, 90), RED), (face(400, 60, 90), BLUE))
    ]
    assert told(events) == [("seen", 1, "Alice"), ("identified", 1, "Alice"), ("seen", 2, None)]
    assert {s.track: s.decision.name for s in app.sightings} == {1: "Alice", 2: None}
    last = Frame(np.zeros((300, 600, 3), np.uint8), 0.5, 12)
    assert told(app.finish(last)) == [("lost", 1, "Alice"), ("lost", 2, None)]
    assert app.sightings == []


def test_events_are_valid_json_with_threshold_and_origin(app, detector, show) -> None:
    enroll(app, detector, "Ахматова", RED)
    events = [e for _ in range(4) for e in show((face(100, 60, 90), RED))]
    line = json.loads(events[-1].to_json())
    assert line["event"] == "identified"
    assert line["name"] == "Ахматова"
    assert (line["threshold"], line["threshold_origin"]) == (0.8, "user")
    assert line["similarity"] > 0.9
    assert line["margin"] is None  # nobody else is in the gallery
    assert len(line["box"]) == 4


def test_one_person_is_not_named_twice_in_a_frame(app, detector, show) -> None:
    enroll(app, detector, "Alice", RED)
    for _ in range(10):
        show((face(60, 60, 90), RED), (face(300, 60, 90), (40, 30, 210)))
        names = Counter(s.decision.name for s in app.sightings)
        assert names["Alice"] <= 1
    assert names["Alice"] == 1


def test_a_track_that_changes_hands_loses_the_name_with_its_id(app, detector, show) -> None:
    enroll(app, detector, "Alice", RED)
    for _ in range(5):
        show((face(100, 60, 90), RED))
    events = [e for _ in range(30) for e in show((face(100, 60, 90), BLUE))]
    assert [(s.track, s.decision.name) for s in app.sightings] == [(2, None)]
    assert ("seen", 2, None) in told(events)


def test_a_lost_person_is_told_once_after_patience(app, detector, show) -> None:
    enroll(app, detector, "Alice", RED)
    for _ in range(5):
        show((face(100, 60, 90), RED))
    gone = [e for _ in range(80) for e in show()]
    assert told(gone) == [("lost", 1, "Alice")]
    assert gone[0].time == pytest.approx(4 * 0.04)


def test_a_returning_person_keeps_track_and_name(app, detector, show) -> None:
    enroll(app, detector, "Alice", RED)
    for _ in range(5):
        show((face(100, 60, 90), RED))
    for _ in range(10):
        show()
    events = [e for _ in range(5) for e in show((face(450, 100, 90), RED))]
    assert told(events) == []
    assert [(s.track, s.decision.name) for s in app.sightings] == [(1, "Alice")]


def test_a_dark_blurred_face_is_low_quality_not_unknown(app, detector, show) -> None:
    enroll(app, detector, "Alice", RED)
    for _ in range(4):
        show((face(100, 60, 90), (60, 60, 60)))
        detector.faces = []
    assert [s.decision.status for s in app.sightings] != [Status.MATCH]


def judged(monkeypatch, chance: float) -> None:
    """Make every face one whose owner is found with `chance`."""
    monkeypatch.setattr(
        "edgeface.describe._by_quality", lambda f, crop: Verdict.of(chance, f, Flaw.MASKED)
    )


def test_a_track_that_nobody_could_recognise_says_why(app, detector, show, monkeypatch) -> None:
    enroll(app, detector, "Alice", RED)
    judged(monkeypatch, HEARD - 0.01)
    events = [e for _ in range(6) for e in show((face(100, 60, 90), RED))]
    assert [str(e.kind) for e in events] == ["seen"]
    assert (events[0].decision.status, events[0].decision.reason) == (
        Status.LOW_QUALITY,
        Flaw.MASKED,
    )
    judged(monkeypatch, HEARD)
    decisions = []
    for _ in range(30):
        show((face(100, 60, 90), RED))
        decisions += [s.decision for s in app.sightings]
    assert (decisions[-1].name, decisions[-1].reason) == ("Alice", None)


@pytest.mark.parametrize("chance", [ENROLLED - 0.01, ENROLLED])
def test_nothing_is_learnt_from_faces_that_are_hard_to_recognise(
    tmp_path, detector, embedding_card, monkeypatch, chance: float
) -> None:
    settings = Settings(
        tracking=TrackerOptions(high=0.6, low=0.3, rejoin=0.8),
        growth=GrowthRules(quality=0.0, apart=0.5),
    )
    judged(monkeypatch, chance)
    with Gallery.open(tmp_path / "g", model="colours", size=3) as gallery:
        app = Identifier(Describer(detector, Colours(embedding_card)), gallery, settings)
        detector.faces = [face(100, 60, 90)]
        picture = painted((detector.faces[0], RED))
        for index in range(60):
            app.step(Frame(picture, index * 0.04, index))
        assert gallery.count(Kind.STRANGER) == (chance >= ENROLLED)


def test_pictures(app, detector) -> None:
    enroll(app, detector, "Alice", RED)
    small, large = face(400, 60, 60), face(60, 60, 120)
    detector.faces = [small, large, face(10, 10, 20, score=0.4)]
    sightings = app.identify(painted((small, GREEN), (large, RED)))
    assert [s.decision.name for s in sightings] == ["Alice", None]
    assert sightings[0].face.embedding is not None
    assert 0 < sightings[0].face.quality <= 1
    detector.faces = []
    assert app.identify(painted()) == []


def test_verify_compares_the_largest_faces(app, detector) -> None:
    detector.faces = [face(100, 60, 90)]
    red, blue = painted((detector.faces[0], RED)), painted((detector.faces[0], BLUE))
    assert app.verify(red, red).same
    assert not app.verify(red, blue).same
    detector.faces = []
    with pytest.raises(ImageError, match="no face found"):
        app.verify(red, blue)


def test_verify_takes_the_best_face_and_not_the_largest_box(app, detector) -> None:
    person, leg = face(60, 60, 60, score=0.95), face(200, 10, 200, score=0.6)
    detector.faces = [person]
    alone = painted((person, RED))
    detector.faces = [leg, person]
    beside = painted((person, RED), (leg, BLUE))
    assert app.verify(alone, beside).same
    assert [round(f.score, 2) for f in app.faces(beside)] == [0.6, 0.95]


def test_what_a_closer_look_denies_is_no_face(app, detector) -> None:
    person, leg = face(60, 60, 60), face(200, 10, 200)
    detector.faces = [leg, person]
    detector.closer = {id(leg): replace(leg, score=0.0)}
    image = painted((person, RED), (leg, BLUE))
    assert [f.box[0] for f in app.faces(image)] == [60]
    app.enroll("Alice", [image])
    assert app.identify(image)[0].decision.name == "Alice"


def test_a_video_embeds_the_points_of_the_closer_look(app, detector, show) -> None:
    enroll(app, detector, "Alice", RED)
    person = face(60, 60, 120)
    beside = replace(person, landmarks=person.landmarks + np.float32([90, 0]))
    detector.faces = [beside]
    detector.closer = {id(beside): person}
    image = painted((face(180, 60, 120), BLUE), (person, RED))
    events = []
    for index in range(12):
        events += app.step(Frame(image, index / 25, index))
    assert [e.decision.name for e in events if e.kind == "identified"] == ["Alice"]


def test_enrolment_is_all_or_nothing(app, detector) -> None:
    one = [face(100, 60, 90)]
    detector.faces = one
    good = painted((one[0], RED))
    with pytest.raises(ImageError, match="empty"):
        app.enroll("Alice", [good, b""])
    assert app.gallery.people() == []
    done = app.enroll("Alice", [good, b""], policy="skip")
    assert (done.added, done.person.name) == (1, "Alice")
    assert done.skipped[0][0] == "picture 2"
    with pytest.raises(ImageError, match="nothing to enrol"):
        app.enroll("Bob", [b""], policy="skip")
    with pytest.raises(ImageError, match="nothing to enrol"):
        app.enroll("Bob", [])


def test_enrolment_pictures_need_one_face(app, detector) -> None:
    two = [face(100, 60, 90), face(300, 60, 120)]
    image = painted((two[0], RED), (two[1], BLUE))
    detector.faces = two
    with pytest.raises(ImageError, match="2 faces"):
        app.enroll("Bob", [image])
    app.enroll("Bob", [image], policy="largest")
    detector.faces = []
    with pytest.raises(ImageError, match="no face found"):
        app.enroll("Bob", [image])


@pytest.mark.parametrize("name", ["", "   ", "x" * 10_000, "a\nb", "a\0b"])
def test_a_name_must_be_a_name(app, detector, name: str) -> None:
    with pytest.raises(GalleryError):
        enroll(app, detector, name, RED)
    assert app.gallery.people() == []


@pytest.mark.parametrize(
    "name", ["Ünïcödé", "李小龙", "أم كلثوم", "O'Brien; DROP TABLE person", "🙂"]
)
def test_any_script_is_a_name(app, detector, name: str) -> None:
    enroll(app, detector, name, RED)
    assert [p.name for p in app.gallery.people()] == [name]


def cohort(n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(11)
    place = face(100, 60, 120)
    return [painted((place, tuple(rng.integers(20, 220, 3).tolist()))) for _ in range(n)]


def test_thresholds_in_order_of_who_set_them(app, detector, embedding_card) -> None:
    assert app.threshold.origin == "user"
    app = Identifier(app.describer, app.gallery)
    assert app.threshold == embedding_card.threshold
    pairs = calibrate(np.random.default_rng(0).normal(0, 0.1, 5000), fpir=1e-3, size=1)
    about = Impostors(**{f.name: getattr(pairs, f.name) for f in fields(Impostors)})
    measured = replace(embedding_card, impostors=about)
    app = Identifier(Describer(detector, Colours(measured)), app.gallery)
    alone = app.threshold
    assert alone.origin == "card:fpir=1e-3@N=1"
    for i, colour in enumerate((RED, GREEN, BLUE)):
        enroll(app, detector, f"p{i}", colour)
    assert app.threshold.origin == "card:fpir=1e-3@N=3"
    assert app.threshold.value > alone.value
    app.gallery.threshold = Threshold(0.61, "user")
    assert app.threshold.value == 0.61
    detector.faces = [face(100, 60, 120)]
    result = app.calibrate(cohort(40), fpir=0.1)
    assert app.threshold.origin == "calibrated:fpir=1e-1@N=3"
    assert app.threshold.value == result.value
    named = sum(app.identify(p)[0].decision.similarity >= result.value for p in cohort(40))
    assert named <= 5


def test_calibration_needs_people_and_strangers(app, detector) -> None:
    detector.faces = [face(100, 60, 120)]
    with pytest.raises(CalibrationError):
        app.calibrate(cohort(40), fpir=0.1)
    enroll(app, detector, "Alice", RED)
    with pytest.raises(CalibrationError, match="too few"):
        app.calibrate(cohort(5), fpir=0.1)
    assert app.gallery.note("calibration") is None


def strangers_model(path: Path, digest: str) -> None:
    """An impostor model by which one pair in a thousand reaches .3, one in a million .6."""
    rates = np.geomspace(0.5, 1e-6, 40)
    table = ([1.0, 1000.0], [0.0, 0.0], [0.0, 1.0], [0.02, 0.02], [0.1, 0.05])
    values = np.interp(np.log(1 / rates), np.log([2, 1e3, 1e6]), [-0.2, 0.3, 0.6])
    Cohort(digest, 999, rates, values, *(np.array(column) for column in table)).save(path)


def test_calibration_without_pictures_goes_by_a_model_of_strangers(
    app, detector, embedding_card
) -> None:
    strangers_model(embedding_card.path.with_suffix(".cohort.npz"), embedding_card.digest)
    app = Identifier(app.describer, app.gallery)
    with pytest.raises(CalibrationError, match="enrol somebody"):
        app.calibrate(fpir=1e-2)
    for i, colour in enumerate((RED, GREEN, BLUE)):
        enroll(app, detector, f"p{i}", colour)
    told: list[tuple[int, int]] = []
    result = app.calibrate(fpir=1e-2, progress=lambda done, of: told.append((done, of)))
    assert result.threshold.origin == "model:fpir=1e-2@N=3" and app.threshold == result.threshold
    assert result.measured.low == 0 < result.measured.value < result.measured.high < 1e-2
    assert result.value >= embedding_card.threshold.value and told[-1] == (3, 3)
    # However lax the rate asked for, the card's threshold is the least.
    assert app.calibrate(fpir=0.3).value == embedding_card.threshold.value
    assert app.threshold.value == embedding_card.threshold.value
    with pytest.raises(CalibrationError, match="no FPIR below"):
        app.calibrate(fpir=1e-9)
    # Nor is it undercut when people are added later, of whom the calibration knew nothing.
    enroll(app, detector, "p4", (120, 130, 20))
    assert app.threshold == embedding_card.threshold
    strict = app.calibrate(fpir=1e-5)
    assert strict.value > embedding_card.threshold.value
    enroll(app, detector, "p5", (20, 130, 120))
    assert app.threshold.origin == "model:fpir=1e-5@N=5,from=4"
    assert app.threshold.value > strict.value


def bank(
    path: Path,
    names: list[str],
    colours: list[tuple[int, int, int]],
    threshold: float | None = 0.8,
) -> Path:
    """A bank file of classes by colour, as the workshop would train one."""
    rows = np.array(colours, np.float32) - 60
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rule = Rule("maxmax", threshold=threshold)
    made = SubmodelBank.pack(
        rows, rows, np.arange(len(names)) % 2, names=names, rule=rule, embedder="d" * 64
    )
    made.save(path)
    return path


def test_a_bank_answers_for_those_the_gallery_does_not_know(
    app, detector, show, tmp_path: Path
) -> None:
    app.bank = SubmodelBank.load(bank(tmp_path / "b.efb", ["Gus", "Ben"], [GREEN, BLUE]))
    enroll(app, detector, "Alice", RED)
    for _ in range(6):
        show(
            (face(20, 60, 90), RED), (face(220, 60, 90), BLUE), (face(420, 60, 90), (200, 200, 30))
        )
    shown = {s.track: (s.decision.name, s.decision.person_id) for s in app.sightings}
    assert shown == {1: ("Alice", 1), 2: ("Ben", -2), 3: (None, None)}
    detector.faces = [face(100, 60, 120)]
    (sighting,) = app.identify(painted((detector.faces[0], GREEN)))
    assert sighting.decision.name == "Gus"


def test_a_class_of_the_bank_is_named_once_in_a_frame(app, show, tmp_path: Path) -> None:
    app.bank = SubmodelBank.load(bank(tmp_path / "b.efb", ["Gus", "Ben"], [GREEN, BLUE]))
    app.reset()
    for _ in range(6):
        show((face(20, 60, 90), BLUE), (face(320, 60, 90), BLUE))
    names = [s.decision.name for s in app.sightings]
    assert sorted(n or "" for n in names) == ["", "Ben"]


def reopened(app: Identifier, threshold: Threshold | None, given: SubmodelBank) -> Identifier:
    return Identifier(app.describer, app.gallery, threshold=threshold, bank=given)


@pytest.mark.parametrize("stored", [None, -1.0])
def test_a_bank_that_nobody_calibrated_refuses_strangers(
    app, detector, tmp_path: Path, stored: float | None
) -> None:
    """It takes the card's threshold (.5 here): what a stranger is like falls short of it."""
    whole = SubmodelBank.load(bank(tmp_path / "b.efb", ["Gus"], [(30, 200, 30)], stored))
    assert whole.threshold is None
    asked = reopened(app, None, whole)
    detector.faces = [face(20, 60, 90), face(220, 60, 90)]
    known, stranger = asked.identify(
        painted((detector.faces[0], GREEN), (detector.faces[1], (220, 70, 90)))
    )
    assert (known.decision.name, known.decision.threshold) == ("Gus", Threshold(0.5, "card"))
    assert stranger.decision.status is Status.UNKNOWN and stranger.decision.name is None
    # What is told is how near the stranger came, and to what.
    assert stranger.decision.threshold == Threshold(0.5, "card")
    assert -1 < stranger.decision.similarity < 0.5


def test_a_threshold_of_the_users_binds_the_bank_too(app, detector, tmp_path: Path) -> None:
    whole = SubmodelBank.load(bank(tmp_path / "b.efb", ["Gus"], [GREEN]))
    assert whole.threshold == Threshold(0.8, "user")
    detector.faces = [face(20, 60, 90)]
    picture = painted((detector.faces[0], (60, 200, 80)))
    (loose,) = reopened(app, None, whole).identify(picture)
    assert loose.decision.name == "Gus"
    asked = reopened(app, Threshold(0.999, "user"), whole)
    (strict,) = asked.identify(picture)
    assert strict.decision.status is Status.UNKNOWN
    assert strict.decision.threshold == Threshold(0.999, "user")
    assert strict.decision.similarity == pytest.approx(loose.decision.similarity)


def test_of_two_refusals_the_nearer_is_told(app, detector, tmp_path: Path) -> None:
    enroll(app, detector, "Alice", RED)
    asked = reopened(
        app,
        Threshold(0.999, "user"),
        SubmodelBank.load(bank(tmp_path / "b.efb", ["Gus"], [GREEN])),
    )
    detector.faces = [face(20, 60, 90)]
    for colour, nearest in (((60, 200, 80), GREEN), ((60, 60, 220), RED)):
        (seen,) = asked.identify(painted((detector.faces[0], colour)))
        assert seen.decision.status is Status.UNKNOWN
        row, other = (np.array(c, np.float32) - 60 for c in (colour, nearest))
        cosine = row @ other / np.linalg.norm(row) / np.linalg.norm(other)
        assert seen.decision.similarity == pytest.approx(cosine, abs=0.1)


def test_a_watch_can_be_explained_afterwards(app, detector, tmp_path: Path) -> None:
    enroll(app, detector, "Alice", RED)
    detector.faces = [face(100, 60, 90), face(400, 60, 90)]
    frames = tmp_path / "frames"
    frames.mkdir()
    picture = painted((detector.faces[0], RED), (detector.faces[1], BLUE))
    for index in range(6):
        cv2.imwrite(str(frames / f"{index}.png"), picture)
    trace = Trace()
    assert told(list(app.watch(frames, trace=trace)))[0][2] == "Alice"
    alice, stranger = app.explain(trace)
    assert alice.title.startswith("track 1: Alice (")
    assert stranger.title.startswith("track 2: unknown, nearest Alice")
    assert len(alice.times) == len(alice.shares) == 6
    assert alice.fused[-1] >= alice.threshold > stranger.fused[-1]
    list(app.watch(frames))
    assert len(app.explain(trace)[0].times) == 6, "a watch without a trace adds nothing"


def test_the_similarity_that_joins_strangers_comes_from_the_calibration(app, detector) -> None:
    assert app.linking is None, "a threshold somebody gave holds for strangers too"


def test_one_picture_is_no_list_of_pictures(app, detector) -> None:
    for one in ("alice.jpg", b"...", Path("alice.jpg"), np.zeros((9, 9, 3), np.uint8)):
        with pytest.raises(ArgumentError, match="give a list"):
            app.enroll("Alice", one)
        with pytest.raises(ArgumentError, match="give a list"):
            app.calibrate(one, fpir=0.1)


@pytest.mark.parametrize("value", [5.0, -1.5, float("nan"), float("inf")])
def test_a_threshold_that_is_no_cosine_is_refused(app, tmp_path: Path, value: float) -> None:
    with pytest.raises(ArgumentError, match="cosine"):
        Identifier(app.describer, app.gallery, threshold=Threshold(value, "user"))
    with pytest.raises(ArgumentError, match="cosine"):
        Identifier.open(tmp_path / "g", threshold=value)


def test_put_together_or_opened_it_tracks_the_same_way(tmp_path: Path) -> None:
    with Identifier.open(tmp_path / "g") as opened:
        made = Identifier(opened.describer, opened.gallery)
        options = [one._following()._tracker.options for one in (opened, made)]
        assert options[0] == options[1]
        assert options[0].rejoin == opened.describer.embedder.card.threshold.value
        assert made.settings == opened.settings == Settings()
    with Identifier.open(tmp_path / "g", settings=Settings(growth=GrowthRules(most=3))) as opened:
        assert opened._following()._growth._rules.most == 3


def test_a_face_counts_from_the_same_score_everywhere(app, detector) -> None:
    sure, weak = face(60, 60, 120, score=0.5), face(300, 60, 90, score=0.49)
    detector.faces = [sure, weak]
    image = painted((sure, RED), (weak, BLUE))
    assert (
        len(app.faces(image)) == len(app.identify(image)) == len(find(detector.search, image)) == 1
    )


def test_two_cameras_share_networks_and_gallery(tmp_path: Path, sample: Path) -> None:
    """Each in a thread of its own; what both say is what each alone says."""
    with Identifier.open(tmp_path / "g") as first:
        first.enroll("Eileen", [sample / "eileen.jpg"])
        second = Identifier(first.describer, first.gallery)
        sink = Told()
        doors = {"door": first, "garden": second}

        def watch(name: str) -> None:
            for _ in doors[name].watch(sample / "clip.mp4", name=name, every=4, sinks=[sink]):
                pass

        watch("door")
        alone = sink.told["door"]
        sink.told = {}
        threads = [threading.Thread(target=watch, args=(name,)) for name in doors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert alone[-1][2] in {"Eileen", None} and any(who == "Eileen" for *_, who in alone)
        assert {name: [t[1:] for t in told] for name, told in sink.told.items()} == {
            name: [t[1:] for t in alone] for name in doors
        }


class Told:
    """A sink that several cameras share."""

    def __init__(self) -> None:
        self.told: dict[str, list[tuple[int, str, str | None]]] = {}

    def publish(self, event: Event) -> None:
        row = (event.track, str(event.kind), event.decision.name)
        self.told.setdefault(event.source, []).append(row)

    def show(self, frame: Frame, sightings: list[Sighting]) -> None:
        pass

    def close(self) -> None:
        pass


def test_two_cameras_name_together_whom_neither_names(app: Identifier, detector: Scripted) -> None:
    box, lights = face(100, 60, 90), ((40, 60, 220), (60, 110, 220))
    detector.faces = [box]
    pictures = [painted((box, light)) for light in lights]
    one, two = (app.faces(picture)[0].embedding for picture in pictures)
    assert one is not None and two is not None
    middle, normal = (v / np.linalg.norm(v) for v in (one + two, np.cross(one, two)))
    app.gallery.enroll("Alice", [0.8 * middle + 0.6 * normal])
    alone = float(0.8 * middle @ one)
    limit = Threshold((alone + (alone + 0.8) / 2) / 2, "user")
    assert alone < limit.value < float(one @ two)

    def names(company: Company | None) -> list[set[str | None]]:
        cameras = [
            Identifier(app.describer, app.gallery, app.settings, threshold=limit, company=company)
            for _ in lights
        ]
        found: list[set[str | None]] = [set(), set()]
        for index in range(20):
            for n, (camera, picture) in enumerate(zip(cameras, pictures, strict=True)):
                frame = Frame(picture, index * 0.1, index, f"camera{n}")
                told = camera.step(frame)
                found[n] |= {e.decision.name for e in told if str(e.kind) != "seen"}
        return found

    assert names(None) == [set(), set()]
    assert names(Company(app.gallery)) == [{"Alice"}, {"Alice"}]
