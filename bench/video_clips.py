"""Composed clips with ground truth: faces of the sequences walk over backgrounds of the scenes, and
what the pipeline says of them is held against who they are. The figures are told of in
`bench.video`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from edgeface import video
from edgeface.aggregate import Aggregator, State
from edgeface.calibrate import Calibration
from edgeface.describe import Describer
from edgeface.detect import Detector
from edgeface.embed import Embedder
from edgeface.follow import Follower
from edgeface.gallery import Gallery
from edgeface.settings import Settings
from edgeface.thresholds import Thresholds
from edgeface.types import Array, Image, Sighting, Threshold

WIDTH, HEIGHT, FPS, SECONDS = 640, 360, 12.5, 20.0
PAD = 24  # pixels around an aligned crop that are made up, and faded out


@dataclass(frozen=True, slots=True, eq=False)
class Footage:
    """One video of a person: `crops` (n, 112, 112, 3), `embeddings` (n, d), `qualities` (n,)."""

    person: str
    crops: Image
    embeddings: Array
    qualities: Array


def read(file: Path) -> Image:
    """A picture, BGR."""
    return np.asarray(cv2.imread(str(file)), np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """One appearance: who, which faces, from when to when (s), from where to where (px, centre and
    width of the face's crop)."""

    person: str
    crops: Image
    begin: float
    end: float
    start: Array
    stop: Array
    blur: float

    def at(self, time: float) -> Array | None:
        """Centre x, y and width at `time`, None when not in view."""
        if not self.begin <= time < self.end:
            return None
        share = (time - self.begin) / (self.end - self.begin)
        sway = np.array([0.0, 4.0 * np.sin(5.0 * time), 0.0])
        return np.asarray(self.start + share * (self.stop - self.start) + sway, np.float32)


def script(sequences: list[Footage], rng: np.random.Generator) -> list[Walk]:
    """Who walks through one clip: six people, two of whom come back as they were in another of
    their videos. Enrolled and strangers alternate."""
    people = sorted({s.person for s in sequences})
    sides = [[p for i, p in enumerate(people) if i % 2 == side] for side in (0, 1)]
    chosen = [str(p) for side in sides for p in rng.choice(side, 3, replace=False)]
    cast = [*chosen, chosen[0], chosen[3]]
    walks = []
    for number, person in enumerate(cast):
        own = [s for s in sequences if s.person == person]
        sequence = own[(number // len(chosen)) % len(own)]
        late = number >= len(chosen)
        begin = float(rng.uniform(11.5, 13.0) if late else rng.uniform(0.0, 3.0))
        small, large = np.exp(rng.uniform(np.log(28), np.log(80), 2)).tolist()
        y = rng.uniform(70, HEIGHT - 70, 2)
        left, right = rng.uniform(40, 200), rng.uniform(WIDTH - 200, WIDTH - 40)
        ends = [np.array([left, y[0], small]), np.array([right, y[1], large])]
        start, stop = ends if rng.random() < 0.5 else ends[::-1]
        walks.append(
            Walk(
                person,
                sequence.crops,
                begin,
                begin + float(rng.uniform(5.0, 8.0)),
                start,
                stop,
                float(rng.uniform(0.0, 1.2)),
            )
        )
    return walks


def compose(path: Path, walks: list[Walk], background: Image, rng: np.random.Generator) -> None:
    """Write the clip (MPEG-4, with sensor noise)."""
    code = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), code, FPS, (WIDTH, HEIGHT))
    if not writer.isOpened():
        raise SystemExit(f"video: {path} cannot be written: OpenCV has no MPEG-4 encoder here")
    cv2.setRNGSeed(int(rng.integers(2**31)))
    scene = np.asarray(
        cv2.resize(background, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), np.uint8
    )
    for index in range(int(SECONDS * FPS)):
        time = index / FPS
        picture = scene.copy()
        for walk in walks:
            place = walk.at(time)
            if place is not None:
                # The frames of a video hold for half a second each.
                crop = walk.crops[int(2 * time) % len(walk.crops)]
                paste(picture, crop, place, walk.blur)
        grain = cv2.randn(np.empty(picture.shape, np.int16), np.zeros(3), np.full(3, 3.0))
        writer.write(cv2.add(picture, grain, dtype=cv2.CV_8U))
    writer.release()


def paste(picture: Image, crop: Image, place: Array, blur: float) -> None:
    """Put an aligned crop, its border faded out, where `place` (centre x, y, width) says."""
    x, y, width = (float(v) for v in place)
    whole = cv2.copyMakeBorder(crop, PAD, PAD, PAD, PAD, cv2.BORDER_REPLICATE)
    size = max(8, round(width * len(whole) / len(crop)))
    small = cv2.resize(whole, (size, size), interpolation=cv2.INTER_AREA)
    if blur > 0.3:
        small = cv2.GaussianBlur(small, (0, 0), blur)
    mask = np.zeros((size, size), np.float32)
    cv2.ellipse(mask, (size // 2, size // 2), (int(size * 0.4), int(size * 0.46)), 0, 0, 360, 1, -1)
    mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), max(0.5, size * 0.03)), np.float32)
    left, top = round(x - size / 2), round(y - size / 2)
    a, b = max(0, -left), max(0, -top)
    c, d = min(size, WIDTH - left), min(size, HEIGHT - top)
    if a >= c or b >= d:
        return
    target = picture[top + b : top + d, left + a : left + c]
    alpha = mask[b:d, a:c, None]
    target[:] = (alpha * small[b:d, a:c] + (1 - alpha) * target).astype(np.uint8)


class LastFace(Aggregator):
    """What identification without aggregation would go by: the newest face alone."""

    def add(self, state: State, embeddings: Array, qualities: Array) -> State:
        """See `Aggregator.add`."""
        return super().add(self.empty(), embeddings[-1:], qualities[-1:])


@dataclass(slots=True, eq=False)
class Watched:
    """What was shown of one walk: track ids, names in order (None while unnamed), when the right
    name first came."""

    tracks: list[int] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    named: float | None = None


def watch(path: Path, walks: list[Walk], follower: Follower) -> list[Watched]:
    """Follow a clip and attribute what is shown to the walks."""
    watched = [Watched() for _ in walks]
    for frame in video.frames(path):
        follower.step(frame)
        for sighting in follower.sightings:
            walk = whose(sighting, walks, frame.time)
            if walk is None:
                continue
            note, name = watched[walk], sighting.decision.name
            if sighting.track is not None and note.tracks[-1:] != [sighting.track]:
                note.tracks.append(sighting.track)
            if note.names[-1:] != [name]:
                note.names.append(name)
            if name == walks[walk].person and note.named is None:
                note.named = frame.time - walks[walk].begin
    return watched


def whose(sighting: Sighting, walks: list[Walk], time: float) -> int | None:
    """The walk whose face this is: the nearest centre within half a face."""
    x1, y1, x2, y2 = (float(v) for v in sighting.face.box)
    best, nearest = None, 0.5
    for i, walk in enumerate(walks):
        place = walk.at(time)
        if place is not None:
            away = float(np.hypot((x1 + x2) / 2 - place[0], (y1 + y2) / 2 - place[1]) / place[2])
            if away < nearest:
                best, nearest = i, away
    return best


def clips(
    sequences: list[Footage],
    enrolled: dict[str, Array],
    embedder: Embedder,
    args: argparse.Namespace,
    folder: Path,
) -> dict[str, float | None]:
    """The figures of the composed clips."""
    people = sorted({s.person for s in sequences})
    known = {p: enrolled[p] for i, p in enumerate(people) if i % 2 == 0 and p in enrolled}
    detector, aggregator = Detector.load("detector"), Aggregator.of(embedder.card)
    scenes = sorted((args.shared / "data/scenes/background").glob("*.webp"))
    rng = np.random.default_rng(0)
    seen: dict[str, list[tuple[Walk, Watched]]] = {"track": [], "frame": []}
    with Gallery.open(folder / "g.gallery", model=embedder.card.digest, size=embedder.size) as g:
        for person, row in known.items():
            g.enroll(person, row)
        threshold = impostors_of(embedder).default_at(len(known))
        for number in range(2 if args.quick else args.clips):
            walks = script(sequences, rng)
            path = (args.keep or folder) / f"clip-{number}.mp4"
            compose(path, walks, read(scenes[int(rng.integers(len(scenes)))]), rng)
            for way, notes in seen.items():
                one = aggregator if way == "track" else LastFace(embedder.size)
                follower = following(detector, embedder, g, threshold, one)
                notes += zip(walks, watch(path, walks, follower), strict=True)
            print(f"\rvideo: clip {number + 1}", end="", file=sys.stderr, flush=True)
    hours = sum(w.end - w.begin for w, _ in seen["track"] if w.person not in known) / 3600
    result: dict[str, float | None] = {
        "n": float(number + 1),
        "gallery": float(len(known)),
        "stranger_hours": hours,
    }
    for way, notes in seen.items():
        result |= {f"{key}.{way}": value for key, value in told(notes, set(known)).items()}
    return result


def following(
    detector: Detector,
    embedder: Embedder,
    gallery: Gallery,
    threshold: Threshold,
    aggregator: Aggregator,
) -> Follower:
    """A follower as `edgeface identify` makes one, over another aggregator."""
    return Follower(
        Describer(detector, embedder),
        gallery,
        Settings(),
        thresholds=lambda: Thresholds(threshold, threshold),
        aggregator=aggregator,
    )


def told(notes: list[tuple[Walk, Watched]], known: set[str]) -> dict[str, float | None]:
    """What the notes of all clips come to."""
    own = [(w, n) for w, n in notes if w.person in known]
    strangers = [(w, n) for w, n in notes if w.person not in known]
    times = [n.named for _, n in own if n.named is not None]
    hours = [sum(w.end - w.begin for w, _ in part) / 3600 for part in (own, strangers)]
    mixed = sum(len({x for x in n.names if x} - {w.person}) for w, n in own)
    false = sum(len({x for x in n.names if x}) for _, n in strangers)
    ends = [n.names[-1:] == [w.person] for w, n in own]
    return {
        "identified": 100 * float(np.mean(ends)),
        "ever_identified": 100 * len(times) / len(own),
        "to_name_s": float(np.median(times)) if times else None,
        "mixed_up_per_hour": mixed / hours[0],
        "false_per_hour": false / hours[1],
        "strangers_named": 100 * float(np.mean([any(n.names) for _, n in strangers])),
        "switches": float(np.mean([max(0, len(n.tracks) - 1) for _, n in notes])),
        "seen": 100 * float(np.mean([bool(n.tracks) for _, n in notes])),
    }


def impostors_of(embedder: Embedder) -> Calibration:
    """The curve that `edgeface identify` takes its thresholds from before anybody calibrates."""
    curve = Calibration.of_card(embedder.card)
    if curve is None:
        raise SystemExit(
            f"video: the card of {embedder.card.name} names no impostors: make it anew"
        )
    return curve
