"""Which faces can be recognised, and that the others are neither enrolled nor named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import face

from edgeface.embed import Embedder
from edgeface.errors import ImageError, ModelError
from edgeface.identify import Identifier
from edgeface.models import load_card
from edgeface.recognisability import ENROLLED, NAMED, Recogniser, Verdict, describe_crop
from edgeface.types import Face, Flaw, Pose, Status

DIGEST = "d" * 64
LOOKS = (Flaw.BLURRED, Flaw.MASKED)


def recogniser(**changes) -> Recogniser:
    """One that looks at the length of the embedding alone, and takes dark crops for blurred."""
    features = 1 + 2 + len(describe_crop(np.zeros((112, 112, 3), np.uint8)))
    first = np.zeros((features + 1, 2), np.float32)
    first[0, 0], first[3, 1] = 1, 9
    second = np.array([[4, 0, 0], [0, -2, 2], [0, 1, 0]], np.float32)
    fields = {
        "centres": np.eye(2, 4, dtype=np.float32),
        "mean": np.zeros(features, np.float32),
        "scale": np.ones(features, np.float32),
        "first": first,
        "second": second,
        "looks": LOOKS,
    }
    return Recogniser(**fields | changes)


def test_the_chance_and_the_look_come_from_the_layers() -> None:
    crops = np.stack([np.full((112, 112, 3), level, np.uint8) for level in (0, 255, 0)])
    rows = np.tile(np.array([[0, 0, 1, 0]], np.float32), (3, 1))
    lengths = np.exp([-2.0, -2.0, 2.0])
    faces = [face(0, 0, 60)] * 3
    verdicts = recogniser()(crops, faces, rows, lengths)
    expected = 1 / (1 + np.exp(-4 * np.tanh([-2.0, -2.0, 2.0])))
    assert [v.chance for v in verdicts] == pytest.approx(expected.tolist(), abs=1e-5)
    assert [v.flaw for v in verdicts] == [Flaw.BLURRED, Flaw.MASKED, None]
    assert recogniser()(crops[:0], [], rows[:0], lengths[:0]) == []


def test_it_is_kept_beside_its_network_and_for_no_other(tmp_path: Path) -> None:
    model = tmp_path / "toy.onnx"
    assert Recogniser.beside(model, DIGEST) is None
    file = recogniser().save(model, DIGEST)
    back = Recogniser.beside(model, DIGEST)
    assert back is not None and back.looks == LOOKS
    assert np.array_equal(back.second, recogniser().second)
    with pytest.raises(ModelError, match=r"another network.*fit it anew"):
        Recogniser.beside(model, "e" * 64)
    whole = file.read_bytes()
    for damage in (b"", whole[:100], whole[: len(whole) // 2], b"x" * 500):
        file.write_bytes(damage)
        with pytest.raises(ModelError, match="reinstall"):
            Recogniser.beside(model, DIGEST)


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": np.zeros(3, np.float32)},
        {"second": np.zeros((3, 9), np.float32)},
        {"scale": np.zeros_like(recogniser().scale)},
        {"first": np.full_like(recogniser().first, np.nan)},
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, changes) -> None:
    recogniser(**changes).save(tmp_path / "toy.onnx", DIGEST)
    with pytest.raises(ModelError, match="do not fit"):
        Recogniser.beside(tmp_path / "toy.onnx", DIGEST)


def posed(size: float, yaw: float = 0, pitch: float = 0, roll: float = 0) -> Face:
    return replace(face(0, 0, size), pose=Pose(yaw, pitch, roll))


@pytest.mark.parametrize(
    ("seen", "look", "flaw"),
    [
        (posed(100), Flaw.BLURRED, Flaw.BLURRED),
        (posed(25), Flaw.BLURRED, Flaw.TOO_SMALL),
        (posed(100), Flaw.TOO_SMALL, Flaw.BLURRED),  # enlarged by whoever made the picture
        (posed(25), Flaw.DARK, Flaw.DARK),
        (posed(100, yaw=60), Flaw.MASKED, Flaw.TURNED_AWAY),
        (posed(100, pitch=-50), Flaw.MASKED, Flaw.TURNED_AWAY),
        (posed(100, pitch=-50), Flaw.BLURRED, Flaw.BLURRED),  # landmarks without detail say little
        (posed(100, roll=175), Flaw.TURNED_AWAY, Flaw.UPSIDE_DOWN),
        (posed(100), Flaw.TURNED_AWAY, Flaw.TURNED_AWAY),
        (posed(100, roll=175), Flaw.BLURRED, Flaw.BLURRED),
        (posed(100, roll=175), Flaw.NO_SURE_FACE, Flaw.NO_SURE_FACE),
        (face(0, 0, 100), Flaw.MASKED, Flaw.MASKED),
        (replace(posed(100, roll=175), score=0.55), Flaw.MASKED, Flaw.NO_SURE_FACE),
    ],
)
def test_what_is_wrong_is_measured_where_it_can_be(seen: Face, look: Flaw, flaw: Flaw) -> None:
    assert Verdict.of(ENROLLED - 0.01, seen, look).flaw is flaw
    assert Verdict.of(ENROLLED, seen, look).flaw is None


# The shipped models on the committed sample ---------------------------------------------------


def blurred(picture: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), 7)


def moved(picture: np.ndarray) -> np.ndarray:
    return cv2.filter2D(picture, -1, np.full((1, 25), 1 / 25))


def dark(picture: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 3, picture.shape)
    return np.clip(picture * 0.05 + noise, 0, 255).astype(np.uint8)


def packed(picture: np.ndarray) -> np.ndarray:
    small = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return cv2.imdecode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 2])[1], 1)


def tiny(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, None, fx=0.13, fy=0.13, interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def portrait(sample: Path) -> np.ndarray:
    """The enrolment picture so large that its face is 130 px tall."""
    picture = cv2.imread(str(sample / "eileen.jpg"))
    from edgeface.detect import Detector

    box = Detector.load().search(picture)[0].box
    ratio = 130 / (box[3] - box[1])
    return cv2.resize(picture, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)


@pytest.fixture
def app(tmp_path: Path):
    with Identifier.open(tmp_path / "people.gallery") as it:
        yield it


FLAWS: list[tuple[Callable[[np.ndarray], np.ndarray], set[Flaw]]] = [
    (blurred, {Flaw.BLURRED}),
    (moved, {Flaw.BLURRED}),
    (packed, {Flaw.COMPRESSED, Flaw.BLURRED}),
    (dark, {Flaw.DARK}),
    (tiny, {Flaw.TOO_SMALL}),
]


@pytest.mark.parametrize(("spoil", "flaws"), FLAWS, ids=[f.__name__ for f, _ in FLAWS])
def test_a_spoilt_picture_is_not_enrolled_unless_asked(
    app: Identifier, portrait: np.ndarray, spoil, flaws: set[Flaw]
) -> None:
    spoilt = spoil(portrait)
    with pytest.raises(ImageError) as refused:
        app.enroll("Eileen", [spoilt])
    faces = app.faces(spoilt)
    if not faces:  # not even found
        assert "no face found" in str(refused.value)
        return
    assert faces[0].recognisability < ENROLLED and faces[0].flaw in flaws
    assert "accept poor ones" in str(refused.value)
    assert len(app.gallery) == 0
    app.enroll("Eileen", [portrait])
    (seen,) = app.identify(spoilt)
    if faces[0].recognisability < NAMED:
        assert seen.decision.status is Status.LOW_QUALITY and seen.decision.name is None
        assert seen.decision.reason in flaws
        assert seen.to_dict()["reason"] == str(seen.decision.reason)
        result = app.verify(portrait, spoilt)
        assert not result.same and result.reason in flaws
    assert app.enroll("Poor", [spoilt], accept_poor=True).added == 1


def test_a_fit_picture_is_enrolled_and_named(app: Identifier, portrait: np.ndarray) -> None:
    (seen,) = app.faces(portrait)
    assert seen.recognisability > 0.5 and seen.flaw is None
    app.enroll("Eileen", [portrait])
    turned = np.ascontiguousarray(np.rot90(portrait, 2))
    for picture in (portrait, portrait[:, ::-1], turned):
        (sighting,) = app.identify(np.ascontiguousarray(picture))
        assert (sighting.decision.name, sighting.decision.reason) == ("Eileen", None)


def test_poor_pictures_can_be_passed_over(app: Identifier, portrait: np.ndarray) -> None:
    done = app.enroll("Eileen", [blurred(portrait), portrait], policy="skip")
    assert done.added == 1 and "picture 1" in done.skipped[0][0]
    reasons: list[ImageError] = []
    assert app.enroll("Eileen", [tiny(portrait), portrait], on_bad=reasons.append).added == 1
    assert len(reasons) == 1


@pytest.mark.parametrize(
    "model",
    ["mobilefacenet", "mobilefacenet-int8", "mobilefacenet-edge", "mobilefacenet-edge-int8"],
)
def test_every_shipped_embedder_has_its_measure(model: str) -> None:
    card = load_card(model, "embedding")
    assert Recogniser.beside(card.path, card.digest) is not None


@pytest.fixture(scope="module")
def crops(shared: Path) -> np.ndarray:
    """One picture each of 60 people of LFW, whom no training saw."""
    folders = sorted((shared / "data" / "lfw" / "aligned112").iterdir())[::95][:60]
    return np.stack([cv2.imread(str(next(iter(sorted(f.iterdir()))))) for f in folders])


def test_faces_without_identity_are_told_from_people(crops: np.ndarray) -> None:
    embedder = Embedder.load()
    measure = Recogniser.beside(embedder.card.path, embedder.card.digest)
    assert measure is not None

    def below(least: float, spoilt: list[np.ndarray]) -> float:
        stack = np.stack(spoilt)
        verdicts = measure(stack, [face(0, 0, 100)] * len(stack), *embedder.measure(stack))
        return float(np.mean([v.chance < least for v in verdicts]))

    def small(side: int) -> list[np.ndarray]:
        return [cv2.resize(cv2.resize(c, (side, side)), (112, 112)) for c in crops]

    assert below(ENROLLED, list(crops)) <= 0.05
    assert below(NAMED, small(40)) <= 0.1
    assert below(NAMED, small(8)) >= 0.95
    assert below(NAMED, [cv2.GaussianBlur(c, (0, 0), 7) for c in crops]) >= 0.95
    noise = np.random.default_rng(0).integers(0, 256, crops.shape, np.uint8)
    assert below(NAMED, list(noise)) >= 0.95
