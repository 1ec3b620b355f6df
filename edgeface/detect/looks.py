"""Looking again: smaller where a face fills the frame, turned where none was found, and once more
upright at each face whose points matter.

A network is at its best with upright faces of about `MEASURED` px, which most of its training
pictures showed. Every function here takes `find`, a network that sees a picture as it is, and
brings the faces to that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from edgeface.detect import patches, pose
from edgeface.detect.boxes import overlaps, suppress
from edgeface.opencv import cv2
from edgeface.types import Array, Face, Image

Find = Callable[[Image], list[Face]]
Read = Callable[[Image, Array], Array]  # the points (5, 2) of a face whose rough points are given

LARGE, MEASURED = 170, 110  # px: a taller face is looked at again with this height
LOOKS = 3  # at a face that fills the frame: the first one's box may be far too small
SAME_IOU = 0.4  # two looks' boxes mean one face
INSIDE = 0.7  # share of a box within a larger face's from which it is a part of that face
PATCH = 224  # px, side of the square in which a face is looked at upright
SURE = 0.7  # score of a face without doubt
UPRIGHT = (
    0.9  # score upright below which a face may lie on its side: half of those upside down have .77
)
# Mean score of both looks from which a face counts that only a turned picture shows. On 250
# backgrounds that leaves none of 14 false faces, and of faces of 30 px and more in scenes turned
# by 90 and 180 degrees it finds 93 % instead of 96 %.
TURNED = 0.6
# The box (4,) that a face has which `upright` put into the middle of a patch, px.
MIDDLE = PATCH / 2 + MEASURED * np.array([-0.39, -0.5, 0.39, 0.5], np.float32)
SMALL_SIDE = 224  # px, longer side of the smaller look: 1.2 of the picture's height is 200 px then


def scaled(find: Find, image: Image, ratio: float) -> list[Face]:
    """The faces of `image` looked at `ratio` times as large, in pixels of `image`."""
    height, width = image.shape[:2]
    small = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    if small != (width, height):
        method = cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, small, interpolation=method), np.uint8)
    scale = np.array([width / small[0], height / small[1]], np.float32)
    faces = find(image)
    return [replace(f, box=f.box * np.tile(scale, 2), landmarks=f.landmarks * scale) for f in faces]


def look(find: Find, image: Image, max_side: int) -> list[Face]:
    """The faces of a frame, best first: once at `max_side`, again smaller where one is so large
    that the network sees only a part of it at a time."""
    return closer(find, image, min(1.0, max_side / max(image.shape[:2])))


def closer(find: Find, image: Image, ratio: float) -> list[Face]:
    """As `look`, the first look `ratio` times as large as `image`."""
    faces = scaled(find, image, ratio)
    for _ in range(LOOKS - 1):
        tallest = max((height(f) for f in faces), default=0.0)
        if tallest * ratio <= LARGE:
            break
        limit, ratio = LARGE / ratio, MEASURED / tallest
        faces = merge(faces, scaled(find, image, ratio), limit)
    return faces


def merge(faces: Sequence[Face], again: Sequence[Face], limit: float) -> list[Face]:
    """What a look and a smaller one say together: of faces taller than `limit` px the smaller look
    knows better, of others the first."""
    large = [f for f in again if height(f) > 0.6 * limit]
    kept = []
    for face in faces:
        shared = _shared(face, large)
        inside = max((part_of(face, f) for f in large), default=0.0)
        if shared > SAME_IOU or (inside > INSIDE and height(face) > 0.25 * limit):
            continue  # the same face, or an eye or a mouth of it
        kept.append(face)
    return sorted([*kept, *large], key=lambda f: -f.score)


def search(
    find: Find, measure: Callable[[Image, Face], Face], image: Image, max_side: int, least: float
) -> list[Face]:
    """The faces of a single picture, each measured upright by `measure`, best first: as `look`, and
    smaller; if none is surely upright, also turned by quarters. What is no face upright, with a
    score below `least`, is left out, and what only a turned picture shows below `TURNED`."""

    def measured(faces: Sequence[Face], mean: float = 0.0) -> list[Face]:
        pairs = [(face, measure(image, face)) for face in faces]
        return [f for g, f in pairs if f.score >= least and (f.score + g.score) / 2 >= mean]

    small = min(SMALL_SIDE, max_side)
    faces = union(look(find, image, max_side), look(find, image, small))
    faces = union(measured(faces), [])
    if faces and faces[0].score >= UPRIGHT:
        return faces
    for quarters in (1, 2, 3):
        turned = np.ascontiguousarray(np.rot90(image, quarters))
        found = look(find, turned, max_side)
        found = [turn_back(f, quarters, image.shape[:2]) for f in found]
        faces = union(faces, measured(found, TURNED))
    return faces


def turn_back(face: Face, quarters: int, size: tuple[int, int]) -> Face:
    """A face of a picture of `size` (H, W) that was turned by `np.rot90(image, quarters)`, in the
    picture's own pixels."""
    corners = face.box.reshape(2, 2)
    points = np.concatenate([corners, face.landmarks])
    height, width = size
    for step in range(quarters):
        # One quarter back: x, y of the turned picture are width - y, x of the one before.
        side = width if (quarters - 1 - step) % 2 == 0 else height
        points = np.column_stack([side - points[:, 1], points[:, 0]])
    low, high = points[:2].min(0), points[:2].max(0)
    box = np.concatenate([low, high]).astype(np.float32)
    return replace(face, box=box, landmarks=points[2:].astype(np.float32))


def union(a: Sequence[Face], b: Sequence[Face]) -> list[Face]:
    """Faces of two looks, best first, of overlapping ones the better."""
    faces = sorted([*a, *b], key=lambda f: -f.score)
    if not faces:
        return []
    groups = suppress(np.stack([f.box for f in faces]), SAME_IOU)
    return [faces[group[0]] for group in groups]


def refine(find: Find, read: Read | None, image: Image, face: Face) -> Face:
    """A face measured once more: looked at upright and `MEASURED` px tall in a patch of its own,
    its landmarks then read by `read` where there is such a network.

    Returns:
        the face with the landmarks, score and pose of that look. Where it shows no face the points
        stay and the score is 0: what was found is then hardly one.
    """
    picture, matrix = patch(image, face)
    found = find(picture)
    there = replace(face, box=MIDDLE)
    best = max(found, key=lambda f: f.score * _shared(there, [f]), default=None)
    if best is None or _shared(there, [best]) < 0.25:
        return replace(face, score=0.0, pose=pose.estimate(face.landmarks))
    points = patches.back(matrix, best.landmarks)
    if read is not None:
        points = read(image, points)
    return replace(face, landmarks=points, score=best.score, pose=pose.estimate(points))


def patch(image: Image, face: Face) -> tuple[Image, Array]:
    """A face upright in the middle of a square of `PATCH` px, and the (2, 3) matrix that put it
    there."""
    matrix = upright(face)
    return patches.cut(image, matrix, PATCH), matrix


def upright(face: Face) -> Array:
    """The (2, 3) matrix that puts a face upright into the middle of a square of `PATCH` px."""
    middle = (face.box[:2] + face.box[2:]) / 2
    tall = max(1.13 * float(np.sqrt(np.prod(face.box[2:] - face.box[:2]))), 1.0)
    angle, ratio = np.deg2rad(pose.roll(face.landmarks)), MEASURED / tall
    cos, sin = ratio * np.cos(angle), ratio * np.sin(angle)
    linear = np.array([[cos, sin], [-sin, cos]])
    return np.column_stack([linear, PATCH / 2 - linear @ middle]).astype(np.float32)


def height(face: Face) -> float:
    """Of its box, px."""
    return float(face.box[3] - face.box[1])


def part_of(face: Face, other: Face) -> float:
    """Which share of a face's box lies within another's, in [0, 1]."""
    low, high = np.maximum(face.box[:2], other.box[:2]), np.minimum(face.box[2:], other.box[2:])
    whole = float(np.prod(face.box[2:] - face.box[:2]))
    return float(np.prod(np.clip(high - low, 0, None))) / max(whole, 1e-6)


def _shared(face: Face, others: Sequence[Face]) -> float:
    """The largest overlap of a face's box with one of `others`."""
    if not others:
        return 0.0
    return float(overlaps(face.box[None], np.stack([f.box for f in others])).max())
