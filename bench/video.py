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
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from bench.video_clips import Footage, clips, impostors_of, read
from edgeface.aggregate import Aggregator
from edgeface.cluster import cluster
from edgeface.embed import DEFAULT, Embedder
from edgeface.gallery import Gallery, Growth
from edgeface.metrics import bcubed, tpir_at_fpir
from edgeface.thresholds import LINKING_FPIR
from edgeface.tidy import tidy
from edgeface.types import Array, Template
from export.protocols.clips import quality_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and how many composed clips."""
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--clips", type=int, default=8, help="0 for none")
    parser.add_argument("--keep", type=Path, help="folder to keep the composed clips in")


def read_sequences(root: Path, embedder: Embedder, every: int) -> list[Footage]:
    """The videos of every `every`-th person."""
    found = []
    for folder in sorted(root.iterdir())[::every]:
        by_video: dict[str, list[Path]] = defaultdict(list)
        for file in sorted(folder.glob("*.webp")):
            by_video[file.stem.split("_")[0]].append(file)
        for files in by_video.values():
            crops = np.stack([read(f) for f in files])
            qualities = np.array([quality_of(c, 112.0) for c in crops], np.float32)
            found.append(Footage(folder.name, crops, embedder(crops), qualities))
    return found


def portraits(root: Path, people: Sequence[str], embedder: Embedder) -> dict[str, Array]:
    """Embedding (d,) of the first LFW picture of those of `people` who have one."""
    files = {p: min((root / p).glob("*.webp"), default=None) for p in people}
    there = {p: f for p, f in files.items() if f is not None}
    rows = embedder(np.stack([read(f) for f in there.values()]))
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


# Strangers


def strangers(sequences: list[Footage], embedder: Embedder, folder: Path) -> dict[str, float]:
    """Numbering strangers as they come, against clustering them all at once."""
    order = np.random.default_rng(0).permutation(len(sequences))
    aggregator = Aggregator.of(embedder.card)
    truth = [sequences[i].person for i in order]
    templates = [template(aggregator, sequences[i]) for i in order]
    curve = impostors_of(embedder)
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
        parts: dict[str, Mapping[str, float | None]] = {
            "ytf": ytf(sequences, enrolled, Aggregator.of(embedder.card)),
            "strangers": strangers(sequences, embedder, folder),
        }
        if args.clips:
            parts["clips"] = clips(sequences, enrolled, embedder, args, folder)
    for part, values in parts.items():
        result |= {f"video.{part}.{key}": value for key, value in values.items()}
    return result
