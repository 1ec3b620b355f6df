"""Whether it is known which faces cannot be judged: what refusing them saves, and what it costs.

quality.discard20: error versus discard (ISO/IEC 29794-1). One picture in four of LFW's people is
spoilt in some way and strength (`export.flaws`), one in twenty is no face. false_rejections.X is
the share at FAR 1e-3 that is left when X has discarded the worst fifth, recognisability or
`edgeface.quality.rate` (none: before), ratio is the first over the second.
quality.enrolled.FLAW: ten people are enrolled from pictures of LFW with a flaw, and strangers with
the same flaw are looked at, the whole path. strangers_named is the share that gets somebody's name,
unguarded that without any floor, refused the share of found faces that is not enrolled, found the
share of pictures with a face, low_quality that of found faces which are never named. FLAW `none`
are the pictures as they are. --quick: few people.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.describe import Appraiser, Describer
from edgeface.detect import Detector
from edgeface.embed import DEFAULT, Embedder
from edgeface.enrolment import one_face
from edgeface.errors import ImageError
from edgeface.metrics.verification import threshold_at_far
from edgeface.recognisability import NAMED
from edgeface.thresholds import expected
from edgeface.types import Array, Face, Image
from export.flaws import SPOILS, nothing
from export.protocols.enrolled import GALLERY, named_share
from export.recognisability import closer

Rng = np.random.Generator
Figures = dict[str, float | str | None]

PEOPLE, QUICK = 150, 12  # enrolled, and as many strangers
PROBES, SPOILT, NOBODY = 600, 0.25, 0.05
FAR, WORST = 1e-3, 0.2


def blur6(image: Image, face: Face, rng: Rng) -> Image:
    """A Gaussian of 6 px."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 6), np.uint8)


def motion(image: Image, face: Face, rng: Rng) -> Image:
    """Moved by a quarter of the face's height in any direction."""
    length = max(3, round(float(face.box[3] - face.box[1]) / 4))
    turn = rng.uniform(0, np.pi)
    half = np.array([np.cos(turn), np.sin(turn)]) * (length - 1) / 2
    a, b = (np.round((length - 1) / 2 + sign * half).astype(int).tolist() for sign in (-1, 1))
    kernel = cv2.line(np.zeros((length, length), np.float32), a, b, 1.0)
    return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), np.uint8)


def jpeg3(image: Image, face: Face, rng: Rng) -> Image:
    """JPEG of quality 3."""
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 3])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def mask(image: Image, face: Face, rng: Rng) -> Image:
    """A pale blue mask with straps over mouth and nose."""
    left, right, nose, mouth_left, mouth_right = face.landmarks
    across, down = right - left, (mouth_left + mouth_right - left - right) / 2
    top, bottom = nose - 0.25 * down, (mouth_left + mouth_right) / 2 + 0.75 * down
    side = (top + bottom) / 2
    corners = [top - 0.3 * across, top + 0.3 * across, side + 0.95 * across]
    corners += [bottom + 0.45 * across, bottom - 0.45 * across, side - 0.95 * across]
    out = image.copy()
    outline = np.round(np.stack(corners)).astype(np.int32)
    cv2.fillPoly(out, [outline], (214, 190, 165), cv2.LINE_AA)
    for near, far in ((2, 1.3), (5, -1.3)):
        ear = np.round(top + far * across - 0.1 * down).astype(int)
        cv2.line(out, outline[near].tolist(), ear.tolist(), (240, 240, 240), 2, cv2.LINE_AA)
    return out


def dark(image: Image, face: Face, rng: Rng) -> Image:
    """A tenth of the light, and a sensor's noise."""
    faint = image * 0.1 + rng.normal(0, 2, image.shape)
    return np.clip(faint, 0, 255).astype(np.uint8)


def px25(image: Image, face: Face, rng: Rng) -> Image:
    """The face 25 px wide."""
    ratio = 25 / float(face.box[2] - face.box[0])
    small = cv2.resize(image, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def none(image: Image, face: Face, rng: Rng) -> Image:
    """As it is."""
    return image


Flawed = Callable[[Image, Face, Rng], Image]
FLAWS: tuple[Flawed, ...] = (none, blur6, motion, jpeg3, mask, dark, px25)


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One face of each picture in which one was found: `rows` (n, d), whether each may be
    `enrolled` and `named` (n,), of how many `pictures`."""

    rows: Array
    enrolled: NDArray[np.bool_]
    named: NDArray[np.bool_]
    pictures: int

    @classmethod
    def of(cls, describer: Describer, pictures: list[Image]) -> Seen:
        faces = []
        for picture in pictures:
            try:
                faces.append(one_face(describer, picture, "largest"))
            except ImageError:
                continue
        rows = [f.embedding for f in faces if f.embedding is not None]
        return cls(
            np.stack(rows) if rows else np.empty((0, describer.embedder.size), np.float32),
            np.array([f.flaw is None for f in faces], bool),
            np.array([f.recognisability >= NAMED for f in faces], bool),
            len(pictures),
        )


def enrolled(shared: Path, describer: Describer, count: int) -> Figures:
    """What `quality.enrolled` tells."""
    files = [next(iter(sorted(p.iterdir()))) for p in people(shared / "data/lfw/originals")]
    rng = np.random.default_rng(3)
    chosen = [files[i] for i in rng.permutation(len(files))[: 2 * count]]
    clean = [np.asarray(cv2.imread(str(file)), np.uint8) for file in chosen]
    found = [describer(image) for image in clean]
    sound = [(i, f[0]) for i, f in zip(clean, found, strict=True) if f]
    limits = {n: expected(describer.embedder.card, n).value for n in range(1, GALLERY + 1)}
    out: Figures = {"quality.enrolled.people": float(len(sound) // 2)}
    for flaw in FLAWS:
        print(f"quality: {flaw.__name__}", file=sys.stderr, flush=True)
        half = len(sound) // 2
        pictures = [flaw(image, face, rng) for image, face in sound]
        residents, strangers = (Seen.of(describer, p) for p in (pictures[:half], pictures[half:]))
        key = f"quality.enrolled.{flaw.__name__}"
        seen = len(residents.rows) + len(strangers.rows)
        refused = 1 - np.concatenate([residents.enrolled, strangers.enrolled])
        low = 1 - np.concatenate([residents.named, strangers.named])
        out |= {
            f"{key}.found": seen / len(pictures),
            f"{key}.refused": float(refused.mean()) if seen else None,
            f"{key}.low_quality": float(low.mean()) if seen else None,
        }
        for name, guarded in (("strangers_named", True), ("unguarded", False)):
            draw = np.random.default_rng(5)
            all_of = [np.full(len(s.rows), not guarded) for s in (residents, strangers)]
            out[f"{key}.{name}"] = named_share(
                residents.rows,
                residents.enrolled | all_of[0],
                strangers.rows,
                strangers.named | all_of[1],
                limits.__getitem__,
                draw,
            )
    return out


def discarded(shared: Path, detector: Detector, appraise: Appraiser, count: int) -> Figures:
    """What `quality.discard20` tells."""
    rng = np.random.default_rng(4)
    several = [p for p in people(shared / "data/lfw/aligned112") if len(list(p.iterdir())) > 1]
    backgrounds = sorted((shared / "data/scenes/background").iterdir())
    references, probes = list[Any](), list[Any]()
    for place in rng.permutation(len(several))[:count]:
        first, second = sorted(several[place].iterdir())[:2]
        crop = np.asarray(cv2.imread(str(second)), np.uint8)
        chance = rng.random()
        if chance < NOBODY:
            background = cv2.imread(str(backgrounds[rng.integers(len(backgrounds))]))
            crop = nothing(np.asarray(background, np.uint8), rng)
        elif chance < NOBODY + SPOILT:
            crop = list(SPOILS)[rng.integers(len(SPOILS))](crop, float(rng.random()), rng)
        for image, faces in ((cv2.imread(str(first)), references), (crop, probes)):
            picture, face = closer(detector, np.asarray(image, np.uint8), rng)
            faces += appraise(picture, [face])
    a, b = (np.stack([f.embedding for f in faces if f.embedding is not None])
            for faces in (references, probes))  # fmt: skip
    similar = b @ a.T
    own = np.eye(len(a), dtype=bool)
    out: Figures = {"quality.discard20.probes": float(len(b))}
    left = {}
    for name, value in (
        ("none", np.zeros(len(b))),
        ("recognisability", np.array([f.recognisability for f in probes])),
        ("rate", np.array([f.quality for f in probes])),
    ):
        kept = np.argsort(value, kind="stable")[0 if name == "none" else round(WORST * len(b)) :]
        limit = threshold_at_far(similar[kept][~own[kept]], FAR)
        left[name] = float((similar[kept][own[kept]] < limit).mean())
        out[f"quality.discard20.false_rejections.{name}"] = left[name]
    ratio = left["recognisability"] / left["rate"] if left["rate"] else None
    return out | {"quality.discard20.ratio": ratio}


def people(folder: Path) -> list[Path]:
    """The folders of people in a folder."""
    return sorted(p for p in folder.iterdir() if p.is_dir())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--embedder", default=DEFAULT, help="by name or file")
    parser.add_argument("--threads", type=int, default=2)


def figures(args: argparse.Namespace) -> Figures:
    """See the module."""
    detector = Detector.load(threads=getattr(args, "threads", 2))
    embedder = Embedder.load(
        getattr(args, "embedder", DEFAULT), threads=getattr(args, "threads", 2)
    )
    describer = Describer(detector, embedder)
    count = QUICK if args.quick else PEOPLE
    probes = 4 * QUICK if args.quick else PROBES
    found = discarded(args.shared, detector, describer.describe, probes)
    return found | enrolled(args.shared, describer, count)
