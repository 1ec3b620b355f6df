"""Training pictures for the detector, composed on the fly from scenes, backgrounds and face crops.

Nothing here knows where the faces are in the end: the teacher labels every finished picture.
Annotations only steer the sampling, so that faces of every size and place turn up equally often.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Rng = np.random.Generator

HELD_BACK = 300  # last lines of annotations.jsonl: the test set of bench/detect.py
HELD_BACKGROUNDS = 150  # last pictures of scenes/background: the same bench's negatives
DEV = 100  # the lines before those: watched while training, never trained on
FACE_SIZES = (10.0, 280.0)  # px, drawn log-uniformly
CROP_SIZES = (16.0, 250.0)  # px, side of a pasted 112×112 crop
# A teacher in doubt about a face of some size sees a profile, a bowed head or something before the
# face: rare in portraits, common in video, so these are drawn more often.
HARD_SCORES, HARD_SIZE, HARD_SHARE = (0.4, 0.88), 20.0, 0.3
WORKING_SIDE = 480  # px, longer side of a scene kept in memory


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A decoded picture, uint8 BGR, its annotated boxes (n, 4) float32 xyxy px, and which of them
    (n,) bool are hard."""

    image: Image
    boxes: NDArray[np.float32]
    hard: NDArray[np.bool_]


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
    return image


def load_scenes(folder: Path, records: Sequence[dict]) -> list[Scene]:
    """Decode annotated scenes, those above `WORKING_SIDE` scaled down to it."""
    scenes = []
    for record in records:
        image = read(folder / record["file"])
        boxes = np.array([f["box"] for f in record["faces"]], np.float32).reshape(-1, 4)
        scores = np.array([f["score"] for f in record["faces"]], np.float32)
        ratio = WORKING_SIDE / max(image.shape[:2])
        if ratio < 1:
            image = cv2.resize(image, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
            boxes = boxes * ratio
        doubtful = (scores >= HARD_SCORES[0]) & (scores <= HARD_SCORES[1])
        large = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) >= HARD_SIZE**2
        scenes.append(Scene(image, boxes, doubtful & large))
    return scenes


class SceneSampler:
    """Draws (size, size, 3) training pictures; all randomness comes from the caller's `rng`."""

    def __init__(
        self,
        scenes: Sequence[Scene],
        backgrounds: Sequence[Image],
        crops: Sequence[Image],
        *,
        size: int = 320,
    ) -> None:
        if not scenes or not backgrounds or not crops:
            raise ValueError("scenes, backgrounds and face crops must each hold a picture")
        self.scenes, self.backgrounds, self.crops, self.size = scenes, backgrounds, crops, size
        self._hard = [scene for scene in scenes if scene.hard.any()]

    @classmethod
    def from_folder(cls, data: Path, rng: Rng, *, n_crops: int, size: int = 320) -> SceneSampler:
        """Load `data`/scenes (training split), its backgrounds and `n_crops` of `data`/faces."""
        train, _, _ = split(data / "scenes" / "annotations.jsonl")
        paths = sorted((data / "faces").rglob("*.webp"))
        chosen = rng.choice(len(paths), min(n_crops, len(paths)), replace=False)
        return cls(
            load_scenes(data / "scenes", train),
            [read(p) for p in backgrounds(data)[:-HELD_BACKGROUNDS]],
            [read(paths[i]) for i in chosen],
            size=size,
        )

    def sample(self, rng: Rng) -> Image:
        """One picture: a scene crop, a mosaic, faces pasted on a background, or background."""
        makers: tuple[Callable[[Rng], Image], ...] = (
            self._scene_picture, self._mosaic, self._pasted, self._background,
        )  # fmt: skip
        return makers[rng.choice(4, p=(0.52, 0.2, 0.2, 0.08))](rng)

    def _scene_picture(self, rng: Rng) -> Image:
        return self._scene_crop(self.size, rng)

    def _scene_crop(self, size: int, rng: Rng) -> Image:
        """A window of a scene with one of its faces at a random scale, place and tilt."""
        hard = bool(self._hard) and rng.random() < HARD_SHARE
        pool = self._hard if hard else self.scenes
        scene = pool[rng.integers(len(pool))]
        boxes = scene.boxes[scene.hard] if hard else scene.boxes
        h, w = scene.image.shape[:2]
        centre, ratio = np.array([w / 2, h / 2]), size / max(h, w) * rng.uniform(0.5, 1.5)
        if len(boxes):
            x1, y1, x2, y2 = boxes[rng.integers(len(boxes))]
            face = max(float(np.sqrt((x2 - x1) * (y2 - y1))), 1.0)
            centre = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
            low, high = FACE_SIZES
            wanted = np.exp(rng.uniform(np.log(low), np.log(high * size / 320)))
            ratio = np.clip(wanted / face, 0.5 * size / max(h, w), 2.5)
        target = rng.uniform(0.1, 0.9, 2) * size
        if ratio * min(h, w) > size:  # no border: slide the window back inside the scene
            slack = np.array([w, h]) * ratio - size
            target = np.clip(target, centre * ratio - slack, centre * ratio)
        around = self._background(rng, size) if rng.random() < 0.5 else None
        return self._warp(scene.image, centre, target, ratio, size=size, rng=rng, around=around)

    def _warp(
        self,
        image: Image,
        centre: NDArray[np.float64],
        target: NDArray[np.float64],
        ratio: float,
        *,
        size: int,
        rng: Rng,
        around: Image | None = None,
    ) -> Image:
        """Map `centre` of `image` to `target` of a (size, size) picture, tilted and mirrored.

        What `image` does not cover shows `around` (size, size), which is drawn upon, or a border.
        """
        angle = np.deg2rad(rng.uniform(-35, 35) if rng.random() < 0.35 else rng.uniform(-3, 3))
        mirror = -1.0 if rng.random() < 0.5 else 1.0
        cos, sin = ratio * np.cos(angle), ratio * np.sin(angle)
        linear = np.array([[cos * mirror, -sin], [sin * mirror, cos]])
        if rng.random() < 0.4:  # foreshortening: what a turn or bow of the head does first
            stretch = np.exp(rng.normal(0, 0.15, 2))
            linear = np.array([[stretch[0], rng.normal(0, 0.1)], [0, stretch[1]]]) @ linear
        matrix = np.column_stack([linear, target - linear @ centre])
        if ratio < 0.6:  # shrink with averaging first: a bilinear warp would alias
            image = cv2.resize(image, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
            matrix[:, :2] /= ratio
        if around is not None:
            border = cv2.BORDER_TRANSPARENT
            return cv2.warpAffine(image, matrix, (size, size), dst=around, borderMode=border)
        border = cv2.BORDER_REFLECT_101 if rng.random() < 0.3 else cv2.BORDER_CONSTANT
        fill = (0, 0, 0) if rng.random() < 0.7 else tuple(rng.integers(0, 256, 3).tolist())
        return cv2.warpAffine(image, matrix, (size, size), borderMode=border, borderValue=fill)

    def _mosaic(self, rng: Rng) -> Image:
        """Four scene crops around a random cross, as in YOLOv4 (2020) §3.4."""
        out = np.empty((self.size, self.size, 3), np.uint8)
        y, x = rng.integers(self.size // 4, self.size * 3 // 4, 2)
        for rows in (slice(0, y), slice(y, self.size)):
            for columns in (slice(0, x), slice(x, self.size)):
                part = out[rows, columns]
                crop = self._scene_crop(max(part.shape[:2]), rng)
                part[:] = crop[: part.shape[0], : part.shape[1]]
        return out

    def _background(self, rng: Rng, size: int = 0) -> Image:
        size = size or self.size
        image = self.backgrounds[rng.integers(len(self.backgrounds))]
        h, w = image.shape[:2]
        ratio = size / min(h, w) * rng.uniform(0.8, 2.0)
        centre, middle = np.array([w / 2, h / 2]), np.full(2, size / 2)
        return self._warp(image, centre, middle, ratio, size=size, rng=rng)

    def _pasted(self, rng: Rng) -> Image:
        """One to six face crops, each under a random similarity, feathered into a background."""
        out = self._background(rng) if rng.random() < 0.7 else self._scene_picture(rng)
        for _ in range(rng.integers(1, 7)):
            crop = self.crops[rng.integers(len(self.crops))]
            side = float(np.exp(rng.uniform(*np.log(CROP_SIZES))))
            self._paste(out, crop, side, rng)
        return out

    def _paste(self, out: Image, crop: Image, side: float, rng: Rng) -> None:
        ratio, angle = side / crop.shape[0], np.deg2rad(rng.normal(0, 15))
        if ratio < 0.7:
            n = max(round(side), 4)
            crop, ratio = cv2.resize(crop, (n, n), interpolation=cv2.INTER_AREA), side / n
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        n = crop.shape[0]
        feather = max(n // 10, 1)
        mask = np.zeros((n, n), np.float32)
        mask[feather : n - feather, feather : n - feather] = 1
        mask = cv2.blur(mask, (2 * feather + 1, 2 * feather + 1))
        cos, sin = ratio * np.cos(angle), ratio * np.sin(angle)
        reach = int(np.ceil(side * 0.71)) + 1
        x, y = (int(v) for v in rng.uniform(0.05, 0.95, 2) * self.size)
        linear = np.array([[cos, -sin], [sin, cos]])
        matrix = np.column_stack([linear, reach - linear @ np.full(2, n / 2)])
        full = (2 * reach, 2 * reach)
        face, alpha = cv2.warpAffine(crop, matrix, full), cv2.warpAffine(mask, matrix, full)
        x1, y1 = max(x - reach, 0), max(y - reach, 0)
        part = out[y1 : y + reach, x1 : x + reach]
        rows = slice(y1 - y + reach, y1 - y + reach + part.shape[0])
        columns = slice(x1 - x + reach, x1 - x + reach + part.shape[1])
        weight = alpha[rows, columns, None]
        part[:] = (face[rows, columns] * weight + part * (1 - weight)).astype(np.uint8)


def recolour(image: Image, rng: Rng) -> Image:
    """Random brightness, contrast, gamma, colour cast or gray: what lamps and cameras do."""
    table = np.arange(256, dtype=np.float32)[:, None].repeat(3, 1) / 255
    table = table ** np.exp(rng.normal(0, 0.25))
    table = (table - 0.5) * np.exp(rng.normal(0, 0.2)) + 0.5 + rng.normal(0, 0.08)
    table *= np.exp(rng.normal(0, 0.05, 3)).astype(np.float32)
    lut = np.clip(table * 255, 0, 255).astype(np.uint8)
    out = cv2.LUT(image, lut[None])
    if rng.random() < 0.15:
        out = cv2.cvtColor(cv2.cvtColor(out, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return out


def degrade(image: Image, rng: Rng) -> Image:
    """Mild blur, sensor noise and JPEG: the student must see through them, the teacher need not."""
    if rng.random() < 0.2:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.6))
    if rng.random() < 0.2:
        noise = rng.standard_normal((*image.shape[:2], 1), np.float32) * rng.uniform(2, 12)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 95))]
        image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
    return image
