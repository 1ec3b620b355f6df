"""Many bad pictures of a face against one good one: how should they be put together?

People of LFW with two pictures or more, none of whom any part of edgeface was trained on. The first
picture of each is the good one; 64 frames come of clips `export.protocols` makes of the others.
Probes are sets of N frames, `outliersP` with P percent of the frames another person's, somebody's
whom nobody is compared with (at least one frame). Every set is fused in every way and compared with
everybody's good picture: `tar` at FAR 1e-3 and `rank1`, percent.

average: of the unit embeddings. norm: weighted by the length of the embedding before it was made
unit. quality: by `edgeface.quality`. recognisability: by the distance to what cannot be recognised
(Deng et al., arXiv 2106.04112), the mean embedding of the poorest frames of the people whom nobody
is compared with. closed: `edgeface.aggregate` without a network, quality and one power iteration.
learned: the network of `python -m export fusion`, where the card of the embedder names one.
default: `edgeface.aggregate` as shipped. `gain` is default less average, with a 95 % interval
(paired bootstrap over people).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.aggregate import Aggregator, Learned
from edgeface.embed import DEFAULT
from edgeface.metrics import tar_at_far
from edgeface.models import ModelCard, load_card
from export.protocols.clips import Describer, Features, describe, others
from export.protocols.intervals import FAR, interval
from export.protocols.pictures import stack

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Fuse = Callable[[Rows], Floats]

FRAMES = 64
SIZES = {1: 8, 4: 8, 16: 4, 64: 1}  # frames of a set: how many sets of each person
SHARES = {"degraded": 0.0, "outliers10": 0.1, "outliers30": 0.3}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, how many people, where their features are kept."""
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--cache", type=Path, help="keep the described frames in this .npz")


def pictures(root: Path, people: int) -> tuple[list[Path], Rows, int]:
    """Files, whose they are (the good picture first), and from which person on they only serve as
    somebody else."""
    folders = [sorted(f.glob("*.webp")) for f in sorted(root.iterdir())]
    rich = [files for files in folders if len(files) >= 2]
    spare = people // 5
    order = np.random.default_rng(0).permutation(len(rich))[: people + spare]
    files, person = [], []
    for number, i in enumerate(order):
        own = rich[i][:5]
        files += own
        person += [number] * len(own)
    return files, np.array(person), min(people, len(order) - spare)


def described(args: argparse.Namespace) -> tuple[Features, int]:
    """The frames of everybody, from the cache where it is of this model."""
    card = load_card(args.model, "embedding")
    people = 24 if args.quick else args.people
    files, person, end = pictures(args.shared / "data/lfw/aligned112", people)
    cache = args.cache and args.cache.with_name(f"{args.cache.stem}-{card.digest[:8]}-{end}.npz")
    if cache and cache.exists():
        return Features.load(cache), end
    cv2.setNumThreads(1)
    crops = stack(files)
    found: list[Features] = []
    describer = Describer(card.path)
    for number in range(person.max() + 1):
        own = np.flatnonzero(person == number)
        good = describe(describer, crops[own[:1]], person[own[:1]], clips=0, frames=0)
        # As many clips of each of the other pictures as 64 frames need.
        sources = own[1:]
        each = -(-FRAMES // (4 * len(sources)))
        rest = describe(
            describer, crops[sources], person[sources], clips=each, frames=4, seed=number
        )
        found += [good, rest.only(rest.clip >= 0).only(slice(0, FRAMES))]
        print(f"\rfusion: {number + 1}/{person.max() + 1} people", end="", file=sys.stderr)
    features = Features.join(found)
    if cache:
        features.save(cache)
    return features, end


def sets(features: Features, end: int, n: int, share: float) -> tuple[Rows, Rows]:
    """Frames (s, n) of sets of everybody, and whose they are (s,)."""
    rng = np.random.default_rng(n)
    strangers = np.flatnonzero((features.clip >= 0) & (features.person >= end))
    rows, people = [], []
    for person in range(end):
        own = np.flatnonzero((features.person == person) & (features.clip >= 0))
        for _ in range(SIZES[n]):
            frames = rng.choice(own, n, replace=False)
            wrong = others(n, share)
            if wrong:
                who = features.person[rng.choice(strangers)]
                theirs = strangers[features.person[strangers] == who]
                frames[:wrong] = rng.choice(theirs, wrong, replace=False)
            rows.append(frames)
            people.append(person)
    return np.stack(rows), np.array(people)


def weighted(features: Features, weights: Floats) -> Fuse:
    """The weighted mean of a set."""

    def fuse(rows: Rows) -> Floats:
        total = (features.embedding[rows] * weights[rows][..., None]).sum(axis=1)
        return np.asarray(total / np.linalg.norm(total, axis=1, keepdims=True), np.float32)

    return fuse


def aggregated(features: Features, aggregator: Aggregator) -> Fuse:
    """What `edgeface.aggregate` makes of a set."""

    def fuse(rows: Rows) -> Floats:
        made = []
        for row in rows:
            state = aggregator.add(
                aggregator.empty(), features.embedding[row], features.quality[row]
            )
            made.append(aggregator.read(state).embedding)
        return np.stack(made)

    return fuse


def poorest(features: Features, end: int) -> Floats:
    """The direction of what cannot be recognised (d,): the mean of the poorest tenth of frames."""
    aside = (features.clip >= 0) & (features.person >= end)
    worst = aside & (features.quality <= np.quantile(features.quality[aside], 0.1))
    mean = features.embedding[worst].mean(axis=0)
    return np.asarray(mean / np.linalg.norm(mean), np.float32)


def methods(features: Features, nobody: Floats, card: ModelCard) -> dict[str, Fuse]:
    """Every way of fusing, by name."""
    learned = Learned.beside(card)
    networks = {"learned": Aggregator(card.size, learned)} if learned else {}
    made = {"closed": Aggregator(card.size), **networks, "default": Aggregator.of(card)}
    one = np.ones(len(features.norm), np.float32)
    return {
        "average": weighted(features, one),
        "norm": weighted(features, features.norm),
        "quality": weighted(features, features.quality + np.float32(1e-3)),
        "recognisability": weighted(features, 1.0 - features.embedding @ nobody),
        **{name: aggregated(features, aggregator) for name, aggregator in made.items()},
    }


def figures(args: argparse.Namespace) -> dict[str, float | str | None]:
    """Every way of fusing, for every size of set and share of others."""
    features, end = described(args)
    clean = (features.clip < 0) & (features.person < end)
    gallery = features.embedding[clean]
    nobody = poorest(features, end)
    ways = methods(features, nobody, load_card(args.model, "embedding"))
    result: dict[str, float | str | None] = {"fusion.people": float(end)}
    for n in SIZES:
        for name, share in SHARES.items():
            if share and n < 4:
                continue
            rows, people = sets(features, end, n, share)
            same = people[:, None] == np.arange(end)[None]
            found = {way: fuse(rows) @ gallery.T for way, fuse in ways.items()}
            key, tars = f"fusion.N{n}.{name}", dict[str, float]()
            for way, similarities in found.items():
                tars[way] = tar_at_far(similarities.ravel(), same.ravel(), FAR)
                result[f"{key}.tar.{way}"] = 100 * tars[way]
                right = similarities.argmax(axis=1) == people
                result[f"{key}.rank1.{way}"] = 100 * float(right.mean())
            result[f"{key}.gain"] = 100 * (tars["default"] - tars["average"])
            low, high = interval([found["default"]], [found["average"]], [people], end)
            result[f"{key}.gain_low"], result[f"{key}.gain_high"] = low, high
    return result
