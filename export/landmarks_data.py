"""Patches for the network of landmarks: faces as a first look would cut them, and no faces."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edgeface.detect import pose
from edgeface.detect.landmarks import EYES, SIDE
from edgeface.types import Array
from export.augment import capture
from export.data import hold_out, open_pack
from export.detector_labels import MIRRORED
from export.disguise import disguise
from export.landmarks_labels import EDGE
from export.scenes import (
    HELD_BACKGROUNDS,
    Image,
    Picture,
    Rng,
    backgrounds,
    degrade,
    read,
    recolour,
    split,
)

KEPT_EYES = 40.0  # px between the eyes of a face cut from a scene and kept in memory, at most
REACH = 3.0  # eye distances from a face's middle that are kept of a scene
SMALLEST = 12.0  # px between the eyes below which a scene's face is not learnt from
BOX = 2.5  # eye distances, side of a first look's box (median of 213)
SHARES = (0.66, 0.22, 0.07, 0.05)  # crops, faces of scenes, no faces, faces not upright


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A picture (H, W, 3) uint8 BGR of one face with its points (5, 2), px."""

    image: Image
    points: Array


def cut(image: Image, points: Array) -> View:
    """The surroundings of a face in a scene, a copy, at most `KEPT_EYES` large."""
    matrix = pose.upright(points, SIDE, EYES)
    eyes = EYES / float(np.hypot(matrix[0, 0], matrix[1, 0]))
    middle, limit = points.mean(0), np.array(image.shape[1::-1])
    low = np.clip((middle - REACH * eyes).astype(int), 0, limit - 1)
    high = np.clip((middle + REACH * eyes).astype(int) + 1, low + 1, limit)
    part, moved = image[low[1] : high[1], low[0] : high[0]], points - low
    if eyes <= KEPT_EYES:
        return View(part.copy(), moved.astype(np.float32))
    size = [max(1, round(n * KEPT_EYES / eyes)) for n in high - low]
    scale = np.array(size) / (high - low)
    small = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8)
    return View(small, ((moved + 0.5) * scale - 0.5).astype(np.float32))


def scene_views(folder: Path, labels: Sequence[dict]) -> Iterator[View]:
    """The faces of labelled scenes whose points are known."""
    for label in labels:
        picture = Picture.of(read(folder / label["file"]), label)
        for points in picture.points:
            if np.isfinite(points).all() and np.linalg.norm(points[1] - points[0]) >= SMALLEST:
                yield cut(picture.image, points - EDGE)


def crop_views(pack: Path, labels: Path) -> tuple[list[View], list[View]]:
    """Labelled crops of a pack: those to train on, and those of held-out people and pictures."""
    data = open_pack(pack)
    held = dict(zip(data.paths, hold_out(data), strict=True))
    row = {path: number for number, path in enumerate(data.paths)}
    sides: tuple[list[View], list[View]] = ([], [])
    for line in labels.read_text().splitlines():
        label = json.loads(line)
        points = np.array(label["landmarks"], np.float32)
        sides[int(held[label["file"]])].append(View(data.images[row[label["file"]]], points))
    return sides


def rough(points: Array, rng: Rng) -> Array:
    """Points moved as one, as a look before would have them: half the time nearly right, half the
    time as a first look has them, which turns by too little where a head is tilted."""
    middle = points.mean(0)
    eyes = EYES / float(np.hypot(*pose.upright(points, SIDE, EYES)[:, 0]))
    if rng.random() < 0.5:
        shift, size, turn = rng.normal(0, 0.035, 2), rng.normal(0, 0.05), rng.normal(0, 3.5)
    else:
        shift, size = rng.normal(0, 0.12, 2), rng.normal(0, 0.11)
        turn = rng.normal(0, 8) if rng.random() < 0.5 else rng.uniform(-42, 42)
    return turned(points, float(turn)) * np.exp(size) + middle * (1 - np.exp(size)) + shift * eyes


def turned(points: Array, degrees: float) -> Array:
    """Points turned about their mean."""
    angle, middle = np.deg2rad(degrees), points.mean(0)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray((points - middle) @ matrix.T + middle, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Sampler:
    """Draws patches (`SIDE`, `SIDE`, 3) uint8 with what the network should say of them."""

    crops: Sequence[View]
    scenes: Sequence[View]
    empty: Sequence[Picture]  # pictures with alarms, or without a face

    def sample(self, rng: Rng) -> tuple[Image, Array, bool]:
        """A patch, five points in it (meaningless where there is no face), whether it shows an
        upright face."""
        kind = rng.choice(4, p=SHARES)
        if kind == 2:
            patch, points = self._no_face(rng)
        else:
            views = self.scenes if kind == 1 or (kind == 3 and rng.random() < 0.3) else self.crops
            patch, points = self._face(views[rng.integers(len(views))], rng, upright=kind != 3)
        patch = degrade(recolour(patch, rng), rng)
        return (capture(patch, rng) if rng.random() < 0.3 else patch), points, kind < 2

    def _face(self, view: View, rng: Rng, *, upright: bool) -> tuple[Image, Array]:
        image, points = view.image, view.points
        if rng.random() < 0.3:
            middle, half = points.mean(0), (points.max(0) - points.min(0)) * 1.1
            box = np.concatenate([middle - half, middle + half])[None].astype(np.float32)
            none = np.empty((0, 4), np.float32)
            image = disguise(Picture(np.asarray(image), box, points[None], none, none), rng)
        seen = rough(points, rng) if upright else turned(points, float(rng.uniform(75, 285)))
        matrix = pose.upright(seen, SIDE, EYES).astype(np.float64)
        if rng.random() < 0.3:  # foreshortening, beyond what the pictures show
            bend = np.eye(2) + np.array([[rng.normal(0, 0.07), rng.normal(0, 0.05)], [0, 0]])
            matrix[:, :2], middle = bend @ matrix[:, :2], np.full(2, (SIDE - 1) / 2)
            matrix[:, 2] = bend @ (matrix[:, 2] - middle) + middle
        mirror = rng.random() < 0.5
        if mirror:
            matrix[0] = [0, 0, SIDE - 1] - matrix[0]
        border = (cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT_101)
        how = border[rng.choice(3, p=(0.6, 0.15, 0.25))]
        patch = cv2.warpAffine(np.asarray(image), matrix, (SIDE, SIDE), borderMode=how)
        there = points @ matrix[:, :2].T + matrix[:, 2]
        return np.asarray(patch, np.uint8), (there[MIRRORED] if mirror else there)

    def _no_face(self, rng: Rng) -> tuple[Image, Array]:
        picture = self.empty[rng.integers(len(self.empty))]
        limit = np.array(picture.image.shape[1::-1])
        if len(picture.alarms):
            box = picture.alarms[rng.integers(len(picture.alarms))]
            middle, side = (box[:2] + box[2:]) / 2, float(np.sqrt(np.prod(box[2:] - box[:2])))
            side *= float(np.exp(rng.normal(0, 0.15)))
        else:
            middle, side = rng.uniform(0, 1, 2) * limit, min(limit) * float(rng.uniform(0.1, 0.9))
        there = (pose.HEAD[:, :2] * side / BOX + middle).astype(np.float32)
        seen = turned(there, float(rng.normal(0, 15)))
        view = cut(picture.image, seen)
        matrix = pose.upright(view.points, SIDE, EYES)
        patch = cv2.warpAffine(view.image, matrix, (SIDE, SIDE))
        return np.asarray(patch, np.uint8), np.zeros((5, 2), np.float32)


def told(labels: Path) -> dict[str, dict]:
    """Picture to what `detector-labels` wrote of it."""
    found: dict[str, dict] = {}
    for file in ("scenes.jsonl", "alarms.jsonl"):
        for line in (labels / file).read_text().splitlines():
            record = json.loads(line)
            found[record["file"]] = found.get(record["file"], {}) | record
    return found


def sampler(data: Path, labels: Path, crops: Sequence[View]) -> Sampler:
    """Crops, the training scenes of `data` as labelled in the folder `labels`, and what an earlier
    detector took for a face."""
    folder, known = data / "scenes", told(labels)
    train, _, _ = split(folder / "annotations.jsonl")
    scenes = list(scene_views(folder, [known[r["file"]] for r in train]))
    alarming = [known[r["file"]] for r in train if known[r["file"]].get("alarms")]
    empty = [Picture.of(read(folder / r["file"]), r).shrunk(640) for r in alarming]
    for path in backgrounds(data)[:-HELD_BACKGROUNDS]:
        empty.append(Picture.of(read(path), known.get(f"background/{path.name}", {})))
    return Sampler(crops, scenes, empty)
