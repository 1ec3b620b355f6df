"""Training pictures for the detector, composed on the fly from scenes, backgrounds and face crops.

Labels come from `detector_labels`: faces with a box and mostly five points, and boxes to `ignore`,
about which the labelling detectors disagree. Whatever moves a picture moves its labels with it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]
Rng = np.random.Generator

HELD_BACK = 300  # last lines of annotations.jsonl: the test set of bench/detect.py
HELD_BACKGROUNDS = 150  # last pictures of scenes/background: the same bench's negatives
DEV = 100  # the lines before those: watched while training, never trained on
FACE_SIZES = (9.0, 280.0)  # px in a picture of 320, drawn log-uniformly
CLOSE_UPS = (240.0, 560.0)  # px likewise: 1.2 of the height of a 640x480 frame
MEASURED = (85.0, 135.0)  # px: how tall the faces are that `edgeface` looks at once more, upright
CROP_SIZES = (16.0, 250.0)  # px, side of a pasted 112×112 crop
WORKING_SIDE = 480  # px, longer side of a scene kept in memory
VISIBLE = 0.35  # share of a box within the picture below which it counts as undecided
MIRRORED = [1, 0, 2, 4, 3]  # the order of five points in a mirrored picture


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """`image` (H, W, 3) uint8 BGR and its labels in pixels: `boxes` (n, 4) xyxy, `points`
    (n, 5, 2), NaN where unknown, `ignore` (m, 4), and `alarms` (k, 4), where an earlier detector
    saw a face that is none."""

    image: Image
    boxes: Floats
    points: Floats
    ignore: Floats
    alarms: Floats

    @classmethod
    def of(cls, image: Image, label: dict) -> Picture:
        """A picture and its line of labels."""
        faces = label.get("faces", [])
        unknown = [[float("nan")] * 2] * 5
        points = [f["landmarks"] or unknown for f in faces]
        return cls(
            image,
            np.array([f["box"] for f in faces], np.float32).reshape(-1, 4),
            np.array(points, np.float32).reshape(-1, 5, 2),
            np.array(label.get("ignore", []), np.float32).reshape(-1, 4),
            np.array(label.get("alarms", []), np.float32).reshape(-1, 4),
        )

    def shrunk(self, side: int) -> Picture:
        """The picture with its longer side at most `side` px."""
        ratio = side / max(self.image.shape[:2])
        if ratio >= 1:
            return self
        small = cv2.resize(self.image, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
        scaled = (
            x * np.float32(ratio) for x in (self.boxes, self.points, self.ignore, self.alarms)
        )
        return Picture(np.asarray(small, np.uint8), *scaled)

    def cut(self, height: int, width: int) -> Picture:
        """The upper left part. A face whose middle is cut off, or most of it, is ignored."""
        limit = np.array([width, height], np.float32)
        middle = (self.boxes[:, :2] + self.boxes[:, 2:]) / 2
        shown = shares(self.boxes, limit)
        keep = (middle >= 0).all(1) & (middle < limit).all(1) & (shown >= VISIBLE)
        doubtful = np.concatenate([self.boxes[~keep & (shown > 0)], self.ignore])
        return Picture(
            self.image[:height, :width],
            self.boxes[keep],
            self.points[keep],
            doubtful[shares(doubtful, limit) > 0],
            self.alarms,
        )


def shares(boxes: Floats, limit: Floats) -> Floats:
    """Which part of each box (n, 4) lies within (0, 0) to `limit` (width, height), in [0, 1]."""
    inside = np.clip(np.minimum(boxes[:, 2:], limit) - np.maximum(boxes[:, :2], 0), 0, None)
    whole = np.maximum(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), 1e-6)
    return np.asarray(np.prod(inside, axis=1) / whole, np.float32)


def split(annotations: Path) -> tuple[list[dict], list[dict], list[dict]]:
    """Annotation records for training, watching (dev) and testing, in file order."""
    records = [json.loads(line) for line in annotations.read_text().splitlines() if line]
    held = len(records) - HELD_BACK
    return records[: held - DEV], records[held - DEV : held], records[held:]


def backgrounds(data: Path) -> list[Path]:
    """Pictures without faces, in a fixed order; the last `HELD_BACKGROUNDS` are for testing."""
    return sorted((data / "scenes" / "background").iterdir())


def read(path: Path) -> Image:
    """The picture at `path` as uint8 BGR; ValueError when it cannot be decoded."""
    image = cv2.imread(str(path))
    if image is None:
        raise ValueError(f"{path} is not a readable picture: remove it or its annotation line")
    return np.asarray(image, np.uint8)


def moved(picture: Picture, matrix: NDArray[np.float64], image: Image) -> Picture:
    """`image`, which shows `picture` under the affine `matrix` (2, 3), and the labels in it.

    A box is mapped as the ellipse in it: the corners of a tilted head's box show no head.
    """
    linear, shift = matrix[:, :2], matrix[:, 2]

    def boxes(rows: Floats) -> Floats:
        middle = (rows[:, :2] + rows[:, 2:]) / 2 @ linear.T + shift
        half = np.sqrt(((rows[:, 2:] - rows[:, :2]) / 2) ** 2 @ (linear.T**2))
        return np.concatenate([middle - half, middle + half], axis=1).astype(np.float32)

    points = (picture.points @ linear.T + shift).astype(np.float32)
    if np.linalg.det(linear) < 0:
        points = points[:, MIRRORED]
    found = Picture(
        image, boxes(picture.boxes), points, boxes(picture.ignore), boxes(picture.alarms)
    )
    return found.cut(*image.shape[:2])


class SceneSampler:
    """Draws (size, size, 3) training pictures; all randomness comes from the caller's `rng`."""

    def __init__(
        self,
        scenes: Sequence[Picture],
        backgrounds: Sequence[Picture],
        crops: Sequence[Picture],
        *,
        size: int = 320,
    ) -> None:
        if not scenes or not backgrounds or not crops:
            raise ValueError("scenes, backgrounds and face crops must each hold a picture")
        self.scenes, self.backgrounds, self.crops, self.size = scenes, backgrounds, crops, size
        self._alarming = [p for p in [*scenes, *backgrounds] if len(p.alarms)]
        self._sharp = [p for p in scenes if len(p.boxes) and _tallest(p) >= MEASURED[0] / 2]

    @classmethod
    def from_folder(cls, data: Path, labels: Path, *, size: int = 320) -> SceneSampler:
        """The training split of `data`/scenes, its backgrounds, and crops of `data`/faces, as
        labelled by `detector_labels` in the folder `labels`."""
        from export.detector_labels import read_crop

        told = {}
        for file in ("scenes.jsonl", "alarms.jsonl"):
            for line in (labels / file).read_text().splitlines():
                record = json.loads(line)
                told[record["file"]] = told.get(record["file"], {}) | record
        train, _, _ = split(data / "scenes" / "annotations.jsonl")
        empty = backgrounds(data)[:-HELD_BACKGROUNDS]
        crops = [json.loads(line) for line in (labels / "crops.jsonl").read_text().splitlines()]
        folder = data / "scenes"
        return cls(
            [
                Picture.of(read(folder / r["file"]), told[r["file"]]).shrunk(WORKING_SIDE)
                for r in train
            ],
            [Picture.of(read(p), told.get(f"background/{p.name}", {})) for p in empty],
            [Picture.of(read_crop(data / "faces", c["file"]), c) for c in crops],
            size=size,
        )

    def sample(self, rng: Rng) -> Picture:
        """One picture: a scene crop, a mosaic, faces pasted on a background, a background, or
        where an earlier detector saw a face that is none."""
        kind = rng.choice(5, p=(0.46, 0.17, 0.15, 0.07, 0.15))
        if kind == 0:
            return self._scene_crop(self.size, rng)
        if kind == 1:
            return self._mosaic(rng)
        if kind == 2:
            return self._pasted(rng)
        if kind == 3 or not self._alarming:
            return self._background(rng)
        return self._alarm(rng)

    def _scene_crop(self, size: int, rng: Rng) -> Picture:
        """A window of a scene with one of its faces at a random scale, place and tilt."""
        band = rng.choice(4, p=(0.62, 0.13, 0.13, 0.12))
        pool = self._sharp if band in (1, 2) and self._sharp else self.scenes
        scene = pool[rng.integers(len(pool))]
        h, w = scene.image.shape[:2]
        centre, ratio = np.array([w / 2, h / 2]), size / max(h, w) * rng.uniform(0.5, 1.5)
        target = rng.uniform(0.1, 0.9, 2) * size
        if len(scene.boxes) and band < 3:
            x1, y1, x2, y2 = scene.boxes[rng.integers(len(scene.boxes))]
            face = max(float(np.sqrt((x2 - x1) * (y2 - y1))), 1.0)
            centre = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
            low, high = np.array((FACE_SIZES, CLOSE_UPS, MEASURED)[band]) * size / 320
            ratio = np.exp(rng.uniform(np.log(low), np.log(high))) / face
            if band == 0:
                ratio = np.clip(ratio, 0.4 * size / max(h, w), 2.5)
            if band == 1:
                target = rng.uniform(0.3, 0.7, 2) * size
        elif band == 3:  # any part of the scene: clothes, hands, lettering, seldom a face
            centre, ratio = rng.uniform(0, 1, 2) * [w, h], ratio * rng.uniform(1.0, 3.0)
        if ratio * min(h, w) > size:  # no border: slide the window back inside the scene
            slack = np.array([w, h]) * ratio - size
            target = np.clip(target, centre * ratio - slack, centre * ratio)
        around = self._background(rng, size).image if rng.random() < 0.5 else None
        return self._warp(scene, centre, target, float(ratio), size=size, rng=rng, around=around)

    def _warp(
        self,
        picture: Picture,
        centre: NDArray[np.float64],
        target: NDArray[np.float64],
        ratio: float,
        *,
        size: int,
        rng: Rng,
        around: Image | None = None,
    ) -> Picture:
        """Map `centre` of a picture to `target` of a (size, size) one, tilted and mirrored.

        What it does not cover shows `around` (size, size), which is drawn upon, or a border.
        """
        angle = np.deg2rad(tilt(rng))
        mirror = -1.0 if rng.random() < 0.5 else 1.0
        cos, sin = ratio * np.cos(angle), ratio * np.sin(angle)
        linear = np.array([[cos * mirror, -sin], [sin * mirror, cos]])
        if rng.random() < 0.4:  # foreshortening: what a turn or bow of the head does first
            stretch = np.exp(rng.normal(0, 0.15, 2))
            linear = np.array([[stretch[0], rng.normal(0, 0.1)], [0, stretch[1]]]) @ linear
        matrix = np.column_stack([linear, target - linear @ centre])
        image, drawn = picture.image, matrix
        if ratio < 0.6:  # shrink with averaging first: a bilinear warp would alias
            image = cv2.resize(image, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
            drawn = np.column_stack([matrix[:, :2] / ratio, matrix[:, 2]])
        if around is not None:
            border = cv2.BORDER_TRANSPARENT
            out = cv2.warpAffine(image, drawn, (size, size), dst=around, borderMode=border)
        else:  # never mirrored: a mirrored half of a face would carry no label
            fill = (0, 0, 0) if rng.random() < 0.7 else tuple(rng.integers(0, 256, 3).tolist())
            out = cv2.warpAffine(image, drawn, (size, size), borderValue=fill)
        return moved(picture, matrix, np.asarray(out, np.uint8))

    def _mosaic(self, rng: Rng) -> Picture:
        """Four scene crops around a random cross, as in YOLOv4 (2020) §3.4."""
        out = np.empty((self.size, self.size, 3), np.uint8)
        y, x = rng.integers(self.size // 4, self.size * 3 // 4, 2)
        parts = []
        for rows in (slice(0, y), slice(y, self.size)):
            for columns in (slice(0, x), slice(x, self.size)):
                height, width = out[rows, columns].shape[:2]
                part = self._scene_crop(max(height, width), rng).cut(height, width)
                out[rows, columns] = part.image
                parts.append((part, np.array([columns.start, rows.start], np.float32)))
        return Picture(
            out,
            np.concatenate([p.boxes + np.tile(c, 2) for p, c in parts]),
            np.concatenate([p.points + c for p, c in parts]),
            np.concatenate([p.ignore + np.tile(c, 2) for p, c in parts]),
            np.empty((0, 4), np.float32),
        )

    def _background(self, rng: Rng, size: int = 0) -> Picture:
        size = size or self.size
        picture = self.backgrounds[rng.integers(len(self.backgrounds))]
        h, w = picture.image.shape[:2]
        ratio = size / min(h, w) * rng.uniform(0.8, 2.0)
        centre, middle = np.array([w / 2, h / 2]), np.full(2, size / 2)
        return self._warp(picture, centre, middle, ratio, size=size, rng=rng)

    def _alarm(self, rng: Rng) -> Picture:
        """Around a false alarm, at any size."""
        picture = self._alarming[rng.integers(len(self._alarming))]
        x1, y1, x2, y2 = picture.alarms[rng.integers(len(picture.alarms))]
        wanted = np.exp(rng.uniform(*np.log(FACE_SIZES)))
        ratio = float(np.clip(wanted / max(np.sqrt((x2 - x1) * (y2 - y1)), 1.0), 0.3, 3.0))
        centre, target = np.array([x1 + x2, y1 + y2]) / 2, rng.uniform(0.2, 0.8, 2) * self.size
        return self._warp(picture, centre, target, ratio, size=self.size, rng=rng)

    def _pasted(self, rng: Rng) -> Picture:
        """One to six face crops, each under a random similarity, feathered into a background."""
        out = self._background(rng)
        for _ in range(rng.integers(1, 7)):
            crop = self.crops[rng.integers(len(self.crops))]
            out = self._paste(out, crop, float(np.exp(rng.uniform(*np.log(CROP_SIZES)))), rng)
        return out

    def _paste(self, out: Picture, crop: Picture, side: float, rng: Rng) -> Picture:
        n = crop.image.shape[0]
        ratio, angle = side / n, np.deg2rad(tilt(rng))
        mirror = -1.0 if rng.random() < 0.5 else 1.0
        cos, sin = ratio * np.cos(angle), ratio * np.sin(angle)
        linear = np.array([[cos * mirror, -sin], [sin * mirror, cos]])
        middle = rng.uniform(0.05, 0.95, 2) * self.size
        matrix = np.column_stack([linear, middle - linear @ np.full(2, n / 2)])
        reach = side * 0.71
        place = np.concatenate([middle - reach, middle + reach])
        taken = np.concatenate([out.boxes, out.ignore])
        if (np.minimum(taken[:, 2:], place[2:]) > np.maximum(taken[:, :2], place[:2])).all(1).any():
            return out
        feather = max(n // 10, 1)
        mask = np.zeros((n, n), np.float32)
        mask[feather : n - feather, feather : n - feather] = 1
        mask = cv2.blur(mask, (2 * feather + 1, 2 * feather + 1))
        image, drawn = crop.image, matrix.copy()
        if ratio < 0.7:
            small = max(round(side), 4)
            image, mask = (
                cv2.resize(x, (small, small), interpolation=cv2.INTER_AREA) for x in (image, mask)
            )
            drawn[:, :2] *= n / small
        low = np.clip(np.floor(middle - reach).astype(int), 0, self.size - 1)
        high = np.clip(np.ceil(middle + reach).astype(int) + 1, 0, self.size)
        drawn[:, 2] -= low
        part, size = out.image[low[1] : high[1], low[0] : high[0]], tuple(high - low)
        weight = cv2.warpAffine(mask, drawn, size)[..., None]
        part[:] = (cv2.warpAffine(image, drawn, size) * weight + part * (1 - weight)).astype(
            np.uint8
        )
        face = moved(crop, matrix, out.image)
        return replace(
            face,
            boxes=np.concatenate([out.boxes, face.boxes]),
            points=np.concatenate([out.points, face.points]),
            ignore=np.concatenate([out.ignore, face.ignore]),
        )


def tilt(rng: Rng) -> float:
    """Degrees: mostly as people hold their heads, every fifth picture any way round."""
    kind = rng.random()
    if kind < 0.5:
        return float(rng.uniform(-6, 6))
    return float(rng.uniform(-50, 50) if kind < 0.8 else rng.uniform(-180, 180))


def _tallest(picture: Picture) -> float:
    return float((picture.boxes[:, 3] - picture.boxes[:, 1]).max())


def recolour(image: Image, rng: Rng) -> Image:
    """Random brightness, contrast, gamma, colour cast or gray: what lamps and cameras do; one
    picture in eight is nearly dark."""
    table = np.arange(256, dtype=np.float32)[:, None].repeat(3, 1) / 255
    table = table ** np.exp(rng.normal(0, 0.25))
    table = (table - 0.5) * np.exp(rng.normal(0, 0.2)) + 0.5 + rng.normal(0, 0.08)
    table *= np.exp(rng.normal(0, 0.05, 3)).astype(np.float32)
    if rng.random() < 0.125:
        table = np.clip(table, 0, 1) ** rng.uniform(1.2, 2.2) * rng.uniform(0.15, 0.6)
    lut = np.clip(table * 255, 0, 255).astype(np.uint8)
    out = cv2.LUT(image, lut[None])
    if rng.random() < 0.15:
        out = cv2.cvtColor(cv2.cvtColor(out, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return np.asarray(out, np.uint8)


def degrade(image: Image, rng: Rng) -> Image:
    """Mild blur, sensor noise and JPEG."""
    if rng.random() < 0.2:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.6)), np.uint8)
    if rng.random() < 0.2:
        noise = rng.standard_normal((*image.shape[:2], 1), np.float32) * rng.uniform(2, 12)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 95))]
        image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
    return np.asarray(image, np.uint8)
