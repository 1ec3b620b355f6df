"""Does it help to look at a face for longer? Video of known people and of strangers.

`video.ytf.*`: the YTF sequences (three frames of each video of about 345 people). Gallery: the
first LFW picture of each person. A probe is one frame, or the template of one video. `rank1`:
everybody is enrolled, is the most similar person the right one? `tpir_fpir1e-2`: every other person
is enrolled, the rest are strangers.

`video.clips.*`: composed clips with ground truth. The faces of the sequences (never the pictures
that are enrolled) move over backgrounds of the scenes, cross, change size and sharpness, leave and
come back; half of them are enrolled, among every other person of the sequences, half are strangers.
The clips go through detection, tracking and identification, as shipped (`track`) and with every
face judged alone (`frame`, the last face instead of the template). An appearance is one walk
through the picture. `identified`: share of enrolled appearances under their own name when they end.
`false_per_hour`: wrong names given to strangers per hour that strangers are in view;
`mixed_up_per_hour`: wrong names given to the enrolled. `to_name_s`: median time from entering to
the right name. `switches`: changes of track id within an appearance, per appearance.

`video.strangers.*`: nobody is enrolled, the videos of the sequences come one after the other and
the gallery numbers whom it meets (`online`, the rules of `edgeface.gallery.Growth`), `tidied` once
when all have come (`edgeface.tidy`), against `edgeface.cluster` over all templates at once
(`offline`); BCubed F, percent.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from edgeface import video
from edgeface.aggregate import Aggregator, Policy, State
from edgeface.calibrate import Calibration
from edgeface.cluster import cluster
from edgeface.decide import Rules
from edgeface.detect import Detector
from edgeface.embed import DEFAULT, Embedder
from edgeface.follow import Follower
from edgeface.gallery import Gallery, Growth
from edgeface.identify import CONFIDENT, LINKING_FPIR
from edgeface.metrics import bcubed, tpir_at_fpir
from edgeface.tidy import tidy
from edgeface.track import TrackerOptions
from edgeface.types import Array, Image, Sighting, Template, Threshold
from export.clips import quality_of

WIDTH, HEIGHT, FPS, SECONDS = 640, 360, 12.5, 20.0
PAD = 24  # pixels around an aligned crop that are made up, and faded out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and how many composed clips."""
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--clips", type=int, default=8, help="0 for none")
    parser.add_argument("--keep", type=Path, help="folder to keep the composed clips in")


@dataclass(frozen=True, slots=True, eq=False)
class Footage:
    """One video of a person: `crops` (n, 112, 112, 3), `embeddings` (n, d), `qualities` (n,)."""

    person: str
    crops: Image
    embeddings: Array
    qualities: Array


def read_sequences(root: Path, embedder: Embedder, every: int) -> list[Footage]:
    """The videos of every `every`-th person."""
    found = []
    for folder in sorted(root.iterdir())[::every]:
        by_video: dict[str, list[Path]] = defaultdict(list)
        for file in sorted(folder.glob("*.webp")):
            by_video[file.stem.split("_")[0]].append(file)
        for files in by_video.values():
            crops = np.stack([_read(f) for f in files])
            qualities = np.array([quality_of(c, 112.0) for c in crops], np.float32)
            found.append(Footage(folder.name, crops, embedder(crops), qualities))
    return found


def _read(file: Path) -> Image:
    return np.asarray(cv2.imread(str(file)), np.uint8)


def portraits(root: Path, people: Sequence[str], embedder: Embedder) -> dict[str, Array]:
    """Embedding (d,) of the first LFW picture of those of `people` who have one."""
    files = {p: min((root / p).glob("*.webp"), default=None) for p in people}
    there = {p: f for p, f in files.items() if f is not None}
    rows = embedder(np.stack([_read(f) for f in there.values()]))
    return dict(zip(there, rows, strict=True))


# The sequences as they are


def ytf(
    sequences: list[Footage], enrolled: dict[str, Array], aggregator: Aggregator
) -> dict[str, float]:
    """Identification by one frame, by the mean of a video and by its template."""
    names = list(enrolled)
    gallery = np.stack([enrolled[n] for n in names])
    known = [s for s in sequences if s.person in enrolled]
    probes = {
        "frame": [(s.person, row) for s in known for row in s.embeddings],
        "track": [(s.person, template(aggregator, s).embedding) for s in known],
        "average": [(s.person, _unit(s.embeddings.mean(axis=0))) for s in known],
    }
    result: dict[str, float] = {"people": float(len(names)), "videos": float(len(known))}
    for way, pairs in probes.items():
        person = np.array([names.index(p) for p, _ in pairs])
        similarities = np.stack([row for _, row in pairs]) @ gallery.T
        result[f"rank1.{way}"] = 100 * float((similarities.argmax(axis=1) == person).mean())
        half = np.arange(len(names)) % 2 == 0
        open_set = np.where(half[None], similarities, -1.0)
        best, mated = open_set.max(axis=1), half[person]
        right = open_set.argmax(axis=1) == person
        share = tpir_at_fpir(best[mated], right[mated], best[~mated], 1e-2)
        result[f"tpir_fpir1e-2.{way}"] = 100 * share
    return result


def template(aggregator: Aggregator, sequence: Footage) -> Template:
    """The template of a whole video."""
    state = aggregator.add(aggregator.empty(), sequence.embeddings, sequence.qualities)
    return aggregator.read(state)


def _unit(row: Array) -> Array:
    return np.asarray(row / np.linalg.norm(row), np.float32)


# Composed clips


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
    scene = cv2.resize(background, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    for index in range(int(SECONDS * FPS)):
        time = index / FPS
        picture = scene.copy()
        for walk in walks:
            place = walk.at(time)
            if place is not None:
                # The frames of a video hold for half a second each.
                crop = walk.crops[int(2 * time) % len(walk.crops)]
                paste(picture, crop, place, walk.blur)
        grain = cv2.randn(np.empty(picture.shape, np.int16), 0, 3)
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
    mask = cv2.GaussianBlur(mask, (0, 0), max(0.5, size * 0.03))
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
            walk = _whose(sighting, walks, frame.time)
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


def _whose(sighting: Sighting, walks: list[Walk], time: float) -> int | None:
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
        threshold = default_threshold(embedder, len(known))
        for number in range(2 if args.quick else args.clips):
            walks = script(sequences, rng)
            path = (args.keep or folder) / f"clip-{number}.mp4"
            compose(path, walks, _read(scenes[int(rng.integers(len(scenes)))]), rng)
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
    tracking = TrackerOptions(
        high=max(CONFIDENT, detector.score_threshold),
        low=detector.score_threshold,
        rejoin=embedder.card.threshold.value,
    )
    return Follower(
        detector,
        embedder,
        gallery,
        threshold=threshold,
        rules=Rules(),
        policy=Policy(),
        tracking=tracking,
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


def default_threshold(embedder: Embedder, size: int) -> Threshold:
    """The threshold `edgeface identify` starts with for a gallery of `size` people."""
    card = embedder.card
    return Calibration.from_json(json.dumps(card.raw["impostors"])).default_at(size)


# Strangers


def strangers(sequences: list[Footage], embedder: Embedder, folder: Path) -> dict[str, float]:
    """Numbering strangers as they come, against clustering them all at once."""
    order = np.random.default_rng(0).permutation(len(sequences))
    aggregator = Aggregator.of(embedder.card)
    truth = [sequences[i].person for i in order]
    templates = [template(aggregator, sequences[i]) for i in order]
    curve = Calibration.from_json(json.dumps(embedder.card.raw["impostors"]))
    labels = []
    path = folder / "strangers.gallery"
    with Gallery.open(path, model=embedder.card.digest, size=embedder.size) as gallery:
        growth = Growth(gallery, linking=partial(curve.value_at, fpir=LINKING_FPIR))
        for track, one in enumerate(templates):
            time, match = 10.0 * track, None
            for late in (0.0, 1.5, 3.0):  # a track is looked at more than once
                threshold = curve.default_at(len(gallery))
                match = growth.see(track, one, time=time + late, threshold=threshold)
            growth.end(track)
            # Whom nobody could place stays alone.
            labels.append(-1 - track if match is None else match.person_id)
        before = {p.name: p.id for p in gallery.people()}
        merged = {before[m.gone]: before[m.kept] for m in tidy(gallery)}
    offline = cluster(np.stack([t.embedding for t in templates])).labels
    numbers = np.unique(labels, return_inverse=True)[1]
    tidied = np.unique([merged.get(label, label) for label in labels], return_inverse=True)[1]
    people = np.unique(truth, return_inverse=True)[1]
    return {
        "tracks": float(len(truth)),
        "people": float(people.max() + 1),
        "online.found": float(numbers.max() + 1),
        "tidied.found": float(tidied.max() + 1),
        "offline.found": float(offline.max() + 1),
        "online.unplaced": float(np.mean(np.array(labels) < 0)),
        "online.bcubed_f": 100 * bcubed(people, numbers).f,
        "tidied.bcubed_f": 100 * bcubed(people, tidied).f,
        "offline.bcubed_f": 100 * bcubed(people, offline).f,
    }


def figures(args: argparse.Namespace) -> dict[str, float | str | None]:
    """All figures."""
    embedder = Embedder.load(args.model)
    sequences = read_sequences(
        args.shared / "data/sequences/ytf", embedder, every=8 if args.quick else 1
    )
    people = sorted({s.person for s in sequences})
    enrolled = portraits(args.shared / "data/lfw/aligned112", people, embedder)
    result: dict[str, float | str | None] = {"video.model": embedder.card.digest[:12]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts: dict[str, dict[str, float | None]] = {
            "ytf": ytf(sequences, enrolled, Aggregator.of(embedder.card)),
            "strangers": strangers(sequences, embedder, folder),
        }
        if args.clips:
            parts["clips"] = clips(sequences, enrolled, embedder, args, folder)
    for part, values in parts.items():
        result |= {f"video.{part}.{key}": value for key, value in values.items()}
    return result
