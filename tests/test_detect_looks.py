"""edgeface.detect.looks: large faces, turned pictures, points measured upright.

The network is a fake that finds a drawn mark: a bright head with one dark and one grey eye, read
back from the pixels, so that a wrong matrix anywhere shows as wrong points.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from edgeface.detect import Detector, looks, pose
from edgeface.types import Face

# Five coloured dots (BGR) of a head, in units of the head's half size from its middle.
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255))
PLACES = np.array([[-0.4, -0.3], [0.4, -0.3], [0.0, 0.1], [-0.3, 0.5], [0.3, 0.5]])


def drawn(size, middle, half, angle=0.0):
    """A black picture (H, W) with one head, and its five points."""
    image = np.zeros((*size, 3), np.uint8)
    turn = np.deg2rad(angle)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = PLACES * half @ matrix.T + middle
    axes = (round(half * 0.78), round(half))
    cv2.ellipse(image, tuple(round(v) for v in middle), axes, angle, 0, 360, (255,) * 3, -1)
    for colour, point in zip(COLOURS, points, strict=True):
        cv2.circle(image, tuple(round(v) for v in point), max(2, round(half / 8)), colour, -1)
    return image, points.astype(np.float32)


def find(image, *, largest=10_000, tilt=180.0, seen=None):
    """Reads a drawn head back; sees none taller than `largest` px or tilted by more than `tilt`
    degrees, as a network would not."""
    if seen is not None:
        seen.append(image.shape[:2])
    rows, columns = np.nonzero(image.max(2) > 100)
    if len(rows) < 20:
        return []
    box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)
    points = []
    for colour in COLOURS:
        y, x = np.nonzero(np.abs(image.astype(int) - colour).sum(2) < 120)
        if not len(x):
            return []
        points.append([x.mean(), y.mean()])
    landmarks = np.array(points, np.float32)
    if box[3] - box[1] > largest or abs(pose.roll(landmarks)) > tilt:
        return []
    return [Face(box, landmarks, 0.9)]


def measured(find):
    """How `search` measures a face, with `find` as the network of the closer look."""
    return lambda image, face: looks.refine(find, None, image, face)


@pytest.mark.parametrize("angle", [0, 30, -75, 90, 180])
@pytest.mark.parametrize("half", [12, 45, 200])
def test_points_are_measured_upright_at_any_size_and_tilt(angle, half):
    image, points = drawn((480, 640), (300.0, 230.0), half, angle)
    (rough,) = find(image)
    rng = np.random.default_rng(0)
    shaken = rough.landmarks + rng.normal(0, 0.08 * half, (5, 2)).astype(np.float32)
    rough = Face(rough.box, shaken, 0.5)
    patches = []
    face = looks.refine(lambda p: find(p, seen=patches), None, image, rough)
    assert patches == [(looks.PATCH, looks.PATCH)]
    np.testing.assert_allclose(face.landmarks, points, atol=0.07 * half + 0.6)
    assert face.score == pytest.approx(0.9)
    assert face.pose is not None
    assert (face.pose.roll - angle + 180) % 360 - 180 == pytest.approx(0, abs=6)
    assert np.array_equal(face.box, rough.box)


def test_what_shows_no_face_upright_keeps_its_points_and_loses_its_score():
    image, _ = drawn((480, 640), (300.0, 230.0), 40)
    (face,) = find(image)
    elsewhere = Face(face.box + 150, face.landmarks + 150, 0.8)
    again = looks.refine(find, None, image, elsewhere)
    assert again.score == 0.0
    assert np.array_equal(again.landmarks, elsewhere.landmarks)


def test_a_face_at_the_edge_is_measured_too():
    image, points = drawn((200, 200), (20.0, 185.0), 60)
    box = np.array([0, 125, 67, 200], np.float32)
    face = looks.refine(visible, None, image, Face(box, points, 0.5))
    assert np.isfinite(face.landmarks).all()


def test_what_reads_points_is_given_those_of_the_closer_look_and_the_picture():
    image, points = drawn((480, 640), (300.0, 230.0), 45, 20)
    (rough,) = find(image)
    told = []

    def read(picture, seen):
        told.append((picture, seen))
        return seen + 5

    face = looks.refine(find, read, image, Face(rough.box, rough.landmarks + 4, 0.5))
    ((picture, seen),) = told
    assert picture is image
    np.testing.assert_allclose(seen, points, atol=4)
    np.testing.assert_allclose(face.landmarks, seen + 5)
    assert face.pose == pose.estimate(face.landmarks)


def visible(patch):
    """A face wherever something bright is, points in a cross."""
    rows, columns = np.nonzero(patch.max(2) > 100)
    if not len(rows):
        return []
    box = np.array([columns.min(), rows.min(), columns.max(), rows.max()], np.float32)
    middle = (box[:2] + box[2:]) / 2
    return [Face(box, np.float32(PLACES * 30) + middle, 0.8)]


def test_a_face_that_fills_the_frame_is_looked_at_smaller_until_it_is_seen_whole():
    image, points = drawn((480, 640), (320.0, 240.0), 230)
    seen = []

    def partial(picture):
        """Sees half of a face too large for it, and puts the points anywhere."""
        seen.append(picture.shape[:2])
        (face,) = find(picture)
        if looks.height(face) <= 250:
            return [face]
        middle = (face.box[:2] + face.box[2:]) / 2
        quarter = (face.box[2:] - face.box[:2]) / 4
        box = np.concatenate([middle - quarter, middle + quarter]).astype(np.float32)
        return [Face(box, face.landmarks * 0 + middle, 0.6)]

    (face,) = looks.look(partial, image, 640)
    assert len(seen) == 3  # half of a face looks half as tall: the second look is still too large
    np.testing.assert_allclose(face.landmarks, points, atol=8)
    assert looks.height(face) == pytest.approx(460, abs=20)


def test_a_usual_face_costs_one_look():
    image, _ = drawn((480, 640), (320.0, 240.0), 60)
    seen = []
    assert len(looks.look(lambda p: find(p, seen=seen), image, 640)) == 1
    assert seen == [(480, 640)]


def test_a_small_face_beside_a_large_one_is_kept_and_an_eye_of_the_large_one_is_not():
    def face(x, y, tall, score=0.8):
        box = np.array([x, y, x + 0.8 * tall, y + tall], np.float32)
        return Face(box, np.zeros((5, 2), np.float32), score)

    whole, beside = face(100, 50, 400, 0.95), face(500, 50, 40)
    eye, half = face(150, 100, 60), face(120, 60, 300)
    kept = looks.merge([half, eye, beside], [whole, beside], 170)
    assert [looks.height(f) for f in kept] == [400, 40]


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_picture_that_lies_on_its_side_is_turned(quarters):
    upright, _ = drawn((300, 420), (150.0, 200.0), 50)
    image = np.ascontiguousarray(np.rot90(upright, quarters))
    (wanted,) = find(image)  # the fake itself reads points at any tilt
    (face,) = looks.search(lambda p: find(p, tilt=40), measured(find), image, 640, 0.3)
    np.testing.assert_allclose(face.landmarks, wanted.landmarks, atol=3)
    np.testing.assert_allclose(face.box, wanted.box, atol=1.5)


def test_a_head_taken_for_an_upright_one_is_turned_when_that_looks_better():
    """As networks do: upside down they see a face too, less surely, its points the wrong way up."""
    upright, _ = drawn((300, 420), (150.0, 200.0), 50)
    image = np.ascontiguousarray(upright[::-1, ::-1])
    (wanted,) = find(image)

    def mistaken(picture):
        (face,) = find(picture)
        if abs(pose.roll(face.landmarks)) < 45:
            return [face]
        middle = (face.box[:2] + face.box[2:]) / 2
        points = np.float32(PLACES * 50) + middle
        return [Face(face.box, points, 0.8)]

    (face,) = looks.search(mistaken, measured(mistaken), image, 640, 0.3)
    assert face.score == pytest.approx(0.9)
    np.testing.assert_allclose(face.landmarks, wanted.landmarks, atol=3)


def test_a_face_that_only_a_smaller_look_sees_is_found():
    image, points = drawn((1080, 1440), (700.0, 540.0), 520)
    (face,) = looks.search(lambda p: find(p, largest=200), measured(find), image, 640, 0.3)
    np.testing.assert_allclose(face.landmarks, points, atol=20)


def test_a_sure_face_stops_the_search():
    image, _ = drawn((300, 420), (150.0, 150.0), 50)
    seen = []
    looks.search(lambda p: find(p, seen=seen), measured(find), image, 640, 0.3)
    assert seen == [(300, 420), (160, 224)]


@pytest.mark.parametrize(("first", "closer", "counts"), [(0.45, 0.7, False), (0.6, 0.7, True)])
@pytest.mark.parametrize("quarters", [0, 1, 2])
def test_what_only_a_turned_picture_shows_must_be_surer(first, closer, counts, quarters):
    upright, _ = drawn((300, 420), (150.0, 200.0), 50)
    image = np.ascontiguousarray(np.rot90(upright, quarters))

    def scored(picture, score, tilt):
        return [replace(face, score=score) for face in find(picture, tilt=tilt)]

    faces = looks.search(
        lambda p: scored(p, first, 40),
        measured(lambda p: scored(p, closer, 180)),
        image,
        640,
        0.3,
    )
    assert len(faces) == (counts or quarters == 0)


def test_what_a_closer_look_shows_to_be_no_face_is_left_out():
    image, points = drawn((300, 420), (150.0, 150.0), 50)
    leg = Face(np.array([250, 40, 380, 280], np.float32), points + 150, 0.8)
    (face,) = looks.search(lambda p: [leg, *find(p)], measured(find), image, 640, 0.3)
    np.testing.assert_allclose(face.landmarks, points, atol=3)


@pytest.mark.parametrize("roll", [0.0, 40.0, 179.0, -120.0])
@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (35, 0), (0, -25), (-50, 15)])
def test_the_pose_of_a_head_seen_from_afar_is_exact(yaw, pitch, roll):
    y, p, r = np.deg2rad([yaw, pitch, roll])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    points = (pose.HEAD @ (about_z @ about_x @ about_y).T)[:, :2] * 70 + 200
    found = pose.estimate(points.astype(np.float32))
    forward = about_x @ about_y @ [0, 0, 1]
    # The roll of a turned and bowed head is not that of its eyes alone: three degrees are allowed.
    assert found.yaw == pytest.approx(np.degrees(np.arcsin(forward[0])), abs=4)
    assert found.pitch == pytest.approx(np.degrees(np.arcsin(-forward[1])), abs=4)
    assert (found.roll - roll + 180) % 360 - 180 == pytest.approx(0, abs=10)


def test_the_shipped_detector_measures_a_turned_face_as_it_does_the_upright_one(sample):
    image = cv2.imread(str(sample / "eileen.jpg"))
    detector = Detector.load(threads=1)
    upright = detector.search(image)[0]
    turned = np.ascontiguousarray(np.rot90(image))
    face = detector.search(turned)[0]
    back = looks.turn_back(face, 1, image.shape[:2])
    eyes = np.linalg.norm(upright.landmarks[1] - upright.landmarks[0])
    error = np.linalg.norm(back.landmarks - upright.landmarks, axis=1).mean()
    assert error < 0.08 * eyes
    assert face.pose.roll == pytest.approx(upright.pose.roll - 90, abs=5)
