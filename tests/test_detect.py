"""edgeface.detect: decoding, suppression, scaling, padding, bad input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import SAMPLE
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface import images
from edgeface.detect import Detector, grid, overlaps, suppress, yunet
from edgeface.detect.grid import STRIDES
from edgeface.errors import ArgumentError, ImageError, ModelError
from edgeface.models import InputSpec, ModelCard
from edgeface.runtime import open_session
from edgeface.types import Threshold

LOW = -12.0  # logit of an empty cell


def card(threshold=0.5):
    spec = InputSpec("image", color="BGR")
    limit = Threshold(threshold, "card")
    return ModelCard("fake", "detection", Path("fake"), "", 0, limit, spec, family="grid")


def maps_of(height, width, cells=()):
    """Maps of a network input with the given (stride, row, column, values (15,)) cells set."""
    maps = {}
    for stride in STRIDES:
        grid = np.zeros((1, 15, height // stride, width // stride), np.float32)
        grid[:, 0] = LOW
        maps[f"stride_{stride}"] = grid
    for stride, row, column, values in cells:
        maps[f"stride_{stride}"][0, :, row, column] = values
    return maps


def cell(stride, box, landmarks, logit=3.0):
    """Row, column and values that code a face, written independently of `decode`."""
    x1, y1, x2, y2 = box
    column, row = int((x1 + x2) / 2 // stride), int((y1 + y2) / 2 // stride)
    values = np.empty(15, np.float32)
    values[0] = logit
    values[1] = (x1 + x2) / 2 / stride - column
    values[2] = (y1 + y2) / 2 / stride - row
    values[3:5] = np.log([(x2 - x1) / stride, (y2 - y1) / stride])
    values[5::2] = np.asarray(landmarks)[:, 0] / stride - column
    values[6::2] = np.asarray(landmarks)[:, 1] / stride - row
    return stride, row, column, values


class FakeSession:
    """Answers with prepared cells at whatever size is asked; remembers its inputs."""

    runtime = "fake"

    def __init__(self, cells=()):
        self.cells, self.seen = cells, []

    def run(self, inputs):
        self.seen.append({k: v.copy() for k, v in inputs.items()})
        return maps_of(*inputs["image"].shape[2:], self.cells)


BOX = np.array([40, 50, 90, 110], np.float32)
POINTS = np.array([[50, 70], [78, 69], [64, 82], [54, 95], [76, 94]], np.float32)


@pytest.mark.parametrize("stride", STRIDES)
def test_decode_reads_back_a_coded_face(stride):
    found = grid.decode(maps_of(192, 160, [cell(stride, BOX, POINTS)]), 0.5, (192, 160))
    np.testing.assert_allclose(found.boxes, BOX[None], atol=1e-4)
    np.testing.assert_allclose(found.landmarks, POINTS[None], atol=1e-4)
    np.testing.assert_allclose(found.scores, [1 / (1 + np.exp(-3.0))], rtol=1e-6)


def test_decode_sorts_and_keeps_only_cells_at_the_threshold():
    cells = [cell(8, BOX, POINTS, 0.1), cell(16, BOX, POINTS, 2.0), cell(32, BOX, POINTS, -0.1)]
    found = grid.decode(maps_of(192, 160, cells), 0.5, (192, 160))
    assert len(found.scores) == 2
    assert found.scores[0] > found.scores[1] > 0.5


def test_decode_of_nothing_has_the_right_shapes():
    found = grid.decode(maps_of(32, 64), 0.5, (32, 64))
    assert (found.boxes.shape, found.landmarks.shape, found.scores.shape) == (
        (0, 4), (0, 5, 2), (0,),
    )  # fmt: skip


def test_a_wild_size_does_not_overflow():
    wild = cell(8, BOX, POINTS)
    wild[3][3:5] = 1e4
    found = grid.decode(maps_of(192, 160, [wild]), 0.5, (192, 160))
    assert np.isfinite(found.boxes).all()


boxes = st.lists(
    st.tuples(*[st.floats(0, 100, width=32)] * 2, *[st.floats(1, 60, width=32)] * 2), max_size=12
).map(lambda rows: np.array([[x, y, x + w, y + h] for x, y, w, h in rows], np.float32))


def naive_iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(w, 0) * max(h, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union


@settings(deadline=None, max_examples=50)
@given(boxes, boxes)
def test_overlaps_equal_the_written_out_formula(a, b):
    a, b = a.reshape(-1, 4), b.reshape(-1, 4)
    wanted = [[naive_iou(x.astype(float), y.astype(float)) for y in b] for x in a]
    got = overlaps(a, b)
    assert got.shape == (len(a), len(b))
    np.testing.assert_allclose(got, np.reshape(wanted, got.shape), atol=2e-4)


@settings(deadline=None, max_examples=50)
@given(boxes)
def test_suppression_is_greedy_and_loses_no_box(rows):
    rows = rows.reshape(-1, 4)
    groups = suppress(rows, 0.4)
    assert sorted(j for group in groups for j in group) == list(range(len(rows)))
    leaders = [group[0] for group in groups]
    assert leaders == sorted(leaders)
    table = overlaps(rows, rows)
    for group in groups:
        assert all(table[group[0], j] > 0.4 for j in group[1:])
    for i, a in enumerate(leaders):
        assert all(table[a, b] <= 0.4 for b in leaders[i + 1 :])


def test_cells_of_one_face_become_one_face_and_others_stay():
    far = BOX + 90
    session = FakeSession(
        [cell(16, BOX, POINTS, 2.0), cell(8, BOX + 2, POINTS, 1.0), cell(16, far, POINTS + 90, 3.0)]
    )
    faces = Detector(session, card())(np.zeros((224, 224, 3), np.uint8))
    assert [round(float(f.box[0])) for f in faces] == [130, 41]
    assert faces[0].score > faces[1].score
    assert faces[0].box.dtype == faces[0].landmarks.dtype == np.float32


def test_agreeing_cells_are_averaged_by_score():
    session = FakeSession([cell(16, BOX, POINTS, 0.0), cell(8, BOX + 2, POINTS + 4, np.log(3.0))])
    (face,) = Detector(session, card(0.4))(np.zeros((224, 224, 3), np.uint8))
    share = 0.75 / (0.5 + 0.75)  # scores are sigmoid(log 3) = 0.75 and sigmoid(0) = 0.5
    np.testing.assert_allclose(face.box, BOX + 2 * share, atol=1e-4)
    np.testing.assert_allclose(face.landmarks, POINTS + 4 * share, atol=1e-4)
    assert face.score == pytest.approx(0.75)


def test_a_loosely_overlapping_cell_is_suppressed_but_not_averaged():
    shifted = BOX + np.array([15, 0, 15, 0], np.float32)  # IoU 35 / 65
    session = FakeSession([cell(16, BOX, POINTS, 2.0), cell(8, shifted, POINTS, 1.0)])
    (face,) = Detector(session, card())(np.zeros((224, 224, 3), np.uint8))
    np.testing.assert_allclose(face.box, BOX, atol=1e-4)


def test_a_large_image_is_scaled_down_and_faces_come_back_in_its_pixels():
    session = FakeSession([cell(16, BOX, POINTS)])
    image = np.zeros((720, 1280, 3), np.uint8)
    (face,) = Detector(session, card(), max_side=320)(image)
    assert session.seen[0]["image"].shape == (1, 3, 192, 320)
    np.testing.assert_allclose(face.box, BOX * 4, atol=1e-3)
    np.testing.assert_allclose(face.landmarks, POINTS * 4, atol=1e-3)


def test_a_small_image_is_padded_with_zeros_and_never_scaled():
    session = FakeSession()
    image = np.random.default_rng(0).integers(1, 256, (50, 70, 3), dtype=np.uint8)
    Detector(session, card())(image)
    planes = session.seen[0]["image"]
    assert planes.shape == (1, 3, 64, 96)
    assert planes.dtype == np.float32
    np.testing.assert_array_equal(planes[0, :, :50, :70], image.transpose(2, 0, 1))
    assert not planes[0, :, 50:].any() and not planes[0, :, :, 70:].any()


def test_the_padding_of_an_earlier_image_does_not_leak():
    session = FakeSession()
    detector = Detector(session, card())
    detector(np.full((64, 64, 3), 255, np.uint8))
    detector(np.full((40, 40, 3), 7, np.uint8))
    assert session.seen[1]["image"].shape == (1, 3, 64, 64)
    assert session.seen[1]["image"].sum() == 7 * 3 * 40 * 40


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (33, 31)])
def test_any_size_is_detected(shape):
    assert Detector(FakeSession(), card())(np.zeros((*shape, 3), np.uint8)) == []


def test_boxes_are_clipped_and_those_in_the_padding_dropped():
    inside = cell(16, np.array([60, 10, 120, 80], np.float32), POINTS)
    outside = cell(8, np.array([101, 10, 125, 40], np.float32), POINTS)
    (face,) = Detector(FakeSession([inside, outside]), card())(np.zeros((100, 100, 3), np.uint8))
    np.testing.assert_allclose(face.box, [60, 10, 100, 80], atol=1e-3)


def test_the_threshold_is_the_cards_unless_given():
    session = FakeSession([cell(16, BOX, POINTS, 0.0)])  # score 0.5
    image = np.zeros((128, 128, 3), np.uint8)
    assert len(Detector(session, card(0.45))(image)) == 1
    assert len(Detector(session, card(0.55))(image)) == 0
    assert len(Detector(session, card(0.55), score_threshold=0.4)(image)) == 1


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (np.zeros((8, 8), np.uint8), "GRAY2BGR"),
        (np.zeros((8, 8, 4), np.uint8), "BGRA2BGR"),
        (np.zeros((8, 8, 3), np.float32), "uint8"),
        (np.zeros((0, 8, 3), np.uint8), "shape"),
        ("face.jpg", "numpy array"),
    ],
)
def test_a_bad_image_is_refused_with_the_fix(image, word):
    with pytest.raises(ImageError, match=word):
        Detector(FakeSession(), card())(image)


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0, float("nan")])
def test_a_bad_threshold_is_refused(threshold):
    with pytest.raises(ArgumentError, match="between 0 and 1"):
        Detector(FakeSession(), card(), score_threshold=threshold)


def test_a_tiny_max_side_is_refused():
    with pytest.raises(ArgumentError, match="32 or more"):
        Detector(FakeSession(), card(), max_side=16)


def test_a_model_with_other_outputs_is_refused():
    class Other(FakeSession):
        def run(self, inputs):
            return {"stride_8": np.zeros((1, 15, 1, 1), np.float32)}

    with pytest.raises(ModelError, match="stride_8"):
        Detector(Other(), card())(np.zeros((64, 64, 3), np.uint8))


def test_landmarks_of_large_faces_are_measured_again_at_a_smaller_scale() -> None:
    path = Path(__file__).parents[1] / "examples" / "sample" / "eileen.jpg"
    image = cv2.imread(str(path))
    detector = Detector.load()
    (face,) = detector(image)
    big = cv2.resize(image, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    detector.max_side = 2000
    (large,) = detector(big)
    assert large.box[3] - large.box[1] > 170
    eyes = np.linalg.norm(face.landmarks[1] - face.landmarks[0])
    error = np.linalg.norm((large.landmarks + 0.5) / 3 - 0.5 - face.landmarks, axis=1).mean()
    assert error < 0.06 * eyes


def yunet_maps(maps):
    """The same faces as the published YuNet files say them: tables by row of cells."""
    found = {}
    for stride in STRIDES:
        rows = maps[f"stride_{stride}"].reshape(15, -1).T[None]
        score = 1 / (1 + np.exp(-rows[..., :1]))
        found |= {f"cls_{stride}": score**1.5, f"obj_{stride}": score**0.5}
        found |= {f"bbox_{stride}": rows[..., 1:5], f"kps_{stride}": rows[..., 5:]}
    return found


class FixedYuNet(FakeSession):
    """A YuNet file for pictures of one size, whose outputs have other names."""

    def run(self, inputs):
        (image,) = inputs.values()
        assert image.shape == (1, 3, 320, 320)
        found = yunet_maps(maps_of(320, 320, self.cells))
        return {f"out_{name}": table for name, table in found.items()}


def test_another_family_is_a_card_and_a_module():
    cells = [cell(16, BOX, POINTS)]
    (want,) = Detector(FakeSession(cells), card())(np.zeros((320, 320, 3), np.uint8))
    outputs = {name: f"out_{name}" for name in yunet.shapes(320, 320)}
    spec = InputSpec("input", color="BGR", size=(320, 320))
    theirs = replace(card(), family="yunet", input=spec, outputs=outputs)
    session = FixedYuNet(cells)
    for shape in ((320, 320), (200, 230)):
        (face,) = Detector(session, theirs)(np.zeros((*shape, 3), np.uint8))
        np.testing.assert_allclose(face.box, want.box, atol=1e-3)
        np.testing.assert_allclose(face.landmarks, want.landmarks, atol=1e-3)
        assert face.score == pytest.approx(want.score, abs=1e-4)
    (half,) = Detector(session, theirs)(np.zeros((400, 640, 3), np.uint8))  # scaled to 320 px
    np.testing.assert_allclose(half.box, want.box * 2, atol=2e-2)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"family": "ssd"}, r"expected 'grid' or 'yunet', got 'ssd' at \$\.family"),
        ({"input": InputSpec("image", size=(300, 320))}, r"multiples of 32 .* at \$\.input\.size"),
        ({"input": InputSpec("image", size=(96, 320))}, r"from 224 on"),
    ],
)
def test_a_card_this_detector_cannot_obey_is_refused(fields, says):
    with pytest.raises(ModelError, match=says):
        Detector(FakeSession(), replace(card(), **fields))


def test_the_card_decides_how_a_picture_is_fed(rng):
    image = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    session = FakeSession()
    Detector(session, replace(card(), input=InputSpec("image", range=(0.0, 1.0))))(image)
    np.testing.assert_allclose(
        session.seen[0]["image"][0], image[..., ::-1].transpose(2, 0, 1) / 255, atol=1e-6
    )


def test_the_published_yunet_finds_the_faces_of_the_sample(shared):
    file = shared / "models" / "teachers" / "yunet_n_640_640.onnx"
    spec = InputSpec("input", color="BGR", size=(640, 640))
    theirs = replace(card(0.6), path=file, input=spec, family="yunet")
    image = images.read(SAMPLE / "eileen.jpg")
    detector = Detector(open_session(file, runtime="onnxruntime"), theirs)
    (face,) = detector(image)
    (ours,) = Detector.load()(image)
    assert float(overlaps(face.box[None], ours.box[None])[0, 0]) > 0.7
