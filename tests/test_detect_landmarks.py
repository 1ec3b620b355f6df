"""edgeface.detect.landmarks and patches: points read in an upright patch by their own network."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from conftest import FakeSession
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface.detect import Detector, patches, pose
from edgeface.detect.landmarks import EYES, SIDE, Landmarks
from edgeface.errors import ModelError
from edgeface.models import WEIGHTS, load_card

CARD = load_card("landmarks", "landmarks")


def head(middle, eyes, roll=0.0, yaw=0.0):
    """The five points of an average head."""
    y, r = np.deg2rad([yaw, roll])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    points = (pose.HEAD @ (about_z @ about_y).T)[:, :2] * eyes
    return (points - points.mean(0) + middle).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    roll=st.floats(-180, 180), eyes=st.floats(3, 300), yaw=st.floats(-50, 50),
    x=st.floats(-50, 900), y=st.floats(-50, 900),
)  # fmt: skip
def test_a_patch_shows_the_head_upright_in_its_middle_and_as_large_as_from_the_front(
    roll, eyes, yaw, x, y
):
    points = head((x, y), eyes, roll, yaw)
    matrix = pose.upright(points, SIDE, EYES)
    there = points @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(there.mean(0), (SIDE - 1) / 2, atol=0.05)
    assert abs(pose.roll(there)) < 0.1
    assert np.hypot(*matrix[:, 0]) * eyes == pytest.approx(EYES, rel=0.02)
    np.testing.assert_allclose(patches.back(matrix, there), points, atol=0.05 + 1e-3 * eyes)


@pytest.mark.parametrize("eyes", [6, 40, 300])
@pytest.mark.parametrize("roll", [0, 100])
def test_a_patch_shows_what_the_matrix_says(eyes, roll):
    """A bright spot at a point is at that point of the patch, however much it was shrunk."""
    size = int(eyes * 6)
    points = head((size / 2, size / 2), eyes, roll)
    image = np.zeros((size, size, 3), np.uint8)
    cv2.circle(image, tuple(np.round(points[2]).astype(int)), max(1, eyes // 8), (255,) * 3, -1)
    matrix = pose.upright(points, SIDE, EYES)
    patch = patches.cut(image, matrix, SIDE)
    weight = patch[..., 0].astype(float)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    seen = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
    spot = np.round(points[2]) @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(seen, spot, atol=0.5 + 1 / eyes)


def answering(*answers):
    """A network that gives one answer after the other, and the patches it was shown."""
    left = list(answers)
    return FakeSession(lambda image: {"landmarks": np.asarray(left.pop(0), np.float32)})


def test_points_that_hardly_move_are_read_once():
    middle = head(((SIDE - 1) / 2,) * 2, EYES)
    session = answering((middle + np.float32([1, 1])).reshape(1, 10))
    points = head((200, 180), 40, 15)
    got = Landmarks(session, CARD)(np.zeros((400, 400, 3), np.uint8), points)
    assert len(session.calls) == 1
    np.testing.assert_allclose(np.linalg.norm(got - points, axis=1), 2**0.5 * 40 / EYES, rtol=0.02)


def test_the_second_patch_is_cut_by_what_the_first_one_showed():
    image = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    middle = head(((SIDE - 1) / 2,) * 2, EYES)
    off = middle + np.float32([3, -2])
    session = answering(off.reshape(1, 10), middle.reshape(1, 10))
    points = head((200, 180), 40, 15)
    got = Landmarks(session, CARD)(image, points)
    first = pose.upright(points, SIDE, EYES)
    second = pose.upright(patches.back(first, off), SIDE, EYES)
    for call, matrix in zip(session.calls, (first, second), strict=True):
        wanted = patches.cut(image, matrix, SIDE).transpose(2, 0, 1)[None]
        np.testing.assert_array_equal(call["image"], wanted)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, patches.back(second, middle), atol=1e-3)


@pytest.mark.parametrize("answer", [np.full((1, 10), np.nan), np.ones((1, 9)), np.ones((2, 10))])
def test_a_network_that_returns_no_points_is_refused(answer):
    with pytest.raises(ModelError, match="landmarks returned no ten finite numbers"):
        Landmarks(answering(answer), CARD)(np.zeros((90, 90, 3), np.uint8), head((40, 40), 20))


def test_a_card_for_other_patches_is_refused():
    with pytest.raises(ModelError, match=r"expected \[64, 64\], got \[48, 48\] at \$\.input\.size"):
        Landmarks(answering(), replace(CARD, input=replace(CARD.input, size=(48, 48))))


def test_the_shipped_network_is_small():
    assert (WEIGHTS / "landmarks.onnx").stat().st_size <= 200_000


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_shipped_network_finds_the_points_again_however_a_look_before_erred(sample, runtime):
    pytest.importorskip(runtime)
    image = cv2.imread(str(sample / "eileen.jpg"))
    face = Detector.load(threads=1).search(image)[0]
    read = Landmarks.load(runtime=runtime, threads=1)
    eyes = np.linalg.norm(face.landmarks[1] - face.landmarks[0])
    rng = np.random.default_rng(0)
    for _ in range(8):
        shift, size, turn = rng.uniform(-0.2, 0.2, 2) * eyes, rng.uniform(0.8, 1.2), 25
        angle = np.deg2rad(rng.uniform(-turn, turn))
        matrix = size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        middle = face.landmarks.mean(0)
        rough = ((face.landmarks - middle) @ matrix.T + middle + shift).astype(np.float32)
        apart = np.linalg.norm(read(image, rough) - face.landmarks, axis=1).mean() / eyes
        assert apart < 0.05
