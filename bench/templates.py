"""Templates of many pictures, compared one with another and searched for, from the lists that users
of IJB-B and IJB-C have (`export/protocols/ijb.py`).

The pictures of a medium (a video, a still) are fused first, then the media of a template, so that a
long video does not outvote the stills; --flat fuses all pictures at once, as CAFace does (Kim et
al., NeurIPS 2022). average: the mean of the unit embeddings of a medium, then of the media. norm:
the same of the embeddings as they were before they were made unit. closed: each medium by
`edgeface.aggregate` without a network, weighted by quality; the media's templates are summed, as
long as their faces agree. learned: the same by the network of `python -m export fusion`, where the
card of the embedder names one.

1:1 is the true accept rate, percent, over the list of pairs at FAR 1e-6 to 1e-1 (null where there
are too few impostors for that rate), 1:N rank and TPIR, percent, the mean over the galleries;
probes of people who are in the other gallery only are the non-mated searches.

--images embeds what the lists name; --features takes embeddings of the pictures in the order of the
lists, before they are made unit: .npy (n, d), or .npz with `features` and, where there is one,
`quality` (n,) in [0, 1], else the detector's score stands for it. Without --meta the video frames
of the test data are written as such lists and measured. Memory: a float32 per pair and way, and the
embeddings.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.templates_faces import Described, of_file, of_images, sequences
from edgeface.aggregate import Aggregator, Learned
from edgeface.embed import DEFAULT
from edgeface.errors import ArgumentError, DataError
from edgeface.metrics import tpir_at_fpir
from edgeface.models import ModelCard, load_card
from export.protocols.ijb import (
    People,
    Pictures,
    read_marks,
    read_pairs,
    read_pictures,
    read_searches,
)
from export.protocols.strangers import Pairs

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Figures = dict[str, float | str | None]

FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
FPIRS = (1e-2, 1e-1)
RANKS = (1, 5, 10)
BLOCK = 4096  # comparisons at a time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The lists, and the pictures or what an embedder made of them."""
    parser.add_argument("--meta", type=Path, help="folder of the lists")
    parser.add_argument("--images", type=Path, help="folder of the pictures they name")
    parser.add_argument("--features", type=Path, help="embeddings of the pictures instead")
    parser.add_argument("--model", help=f"embedder of --images ({DEFAULT}), or of --features")
    parser.add_argument("--flat", action="store_true", help="all pictures alike, without media")
    parser.add_argument("--threads", type=int, default=2)


# What a template is made of: rows of pictures and, among them, where every medium begins.
Fuse = Callable[[Ints, Ints], NDArray[np.float64]]


def averaged(embedding: Floats, weight: Floats) -> Fuse:
    """The weighted sum of each medium over its number of pictures, summed over the media."""

    def made(rows: Ints, starts: Ints) -> NDArray[np.float64]:
        said = embedding[rows].astype(np.float64) * weight[rows, None]
        counts = np.diff(np.append(starts, len(rows)))
        return np.asarray((np.add.reduceat(said, starts) / counts[:, None]).sum(axis=0))

    return made


def aggregated(described: Described, aggregator: Aggregator) -> Fuse:
    """The templates that `edgeface.aggregate` makes of the media, summed, each as long as its faces
    agree, as is the mean of unit embeddings."""

    def made(rows: Ints, starts: Ints) -> NDArray[np.float64]:
        total = np.zeros(aggregator.size)
        for part in np.split(rows, starts[1:]):
            embeddings, quality = described.embedding[part], described.quality[part]
            found = aggregator.read(aggregator.add(aggregator.empty(), embeddings, quality))
            total += found.confidence * found.embedding
        return total

    return made


def ways(described: Described, card: ModelCard | None) -> dict[str, Fuse]:
    """Every way of fusing, by name."""
    size = described.embedding.shape[1]
    found = {
        "average": averaged(described.embedding, np.ones_like(described.norm)),
        "norm": averaged(described.embedding, described.norm),
        "closed": aggregated(described, Aggregator(size)),
    }
    learned = None if card is None else Learned.beside(card)
    if learned is not None:
        found["learned"] = aggregated(described, Aggregator(size, learned))
    return found


def fuse(
    pictures: Pictures, described: Described, fuses: Mapping[str, Fuse], *, flat: bool
) -> tuple[Ints, dict[str, Floats]]:
    """Every template once, ascending (t,), and its unit rows (t, d) by way; 0 where a template has
    nothing that can be told."""
    every, order, begin, media = pictures.groups(described.norm > 0)
    size = described.embedding.shape[1]
    templates = {way: np.zeros((len(every), size), np.float32) for way in fuses}
    begin = np.append(begin, len(order))
    for i, (a, b) in enumerate(pairwise(media)):
        if a == b:
            print(f"templates: nothing is known of template {every[i]}", file=sys.stderr)
            continue
        rows = order[begin[a] : begin[b]]
        starts = np.zeros(1, np.int64) if flat else begin[a:b] - begin[a]
        for way, made in fuses.items():
            row = made(rows, starts)
            templates[way][i] = row / max(float(np.linalg.norm(row)), 1e-12)
    return every, templates


def verified(meta: Path, every: Ints, templates: Mapping[str, Floats]) -> Figures:
    """TAR at every FAR of every way over the list of pairs, which is read once, in parts."""
    genuine: dict[str, list[Floats]] = {way: [] for way in templates}
    foreign: dict[str, list[Floats]] = {way: [] for way in templates}
    for a, b, same in read_pairs(meta, every):
        for way, rows in templates.items():
            cosine = np.concatenate(
                [
                    np.einsum("nd,nd->n", rows[a[i : i + BLOCK]], rows[b[i : i + BLOCK]])
                    for i in range(0, len(a), BLOCK)
                ]
            )
            genuine[way].append(cosine[same])
            foreign[way].append(cosine[~same])
    found: Figures = {}
    for way in templates:
        own, others = (np.concatenate(part.pop(way)) for part in (genuine, foreign))
        if not len(own) or not len(others):
            raise DataError(f"{meta}: the list of pairs needs some of one person and some of two")
        found["templates.pairs.genuine"] = float(len(own))
        found["templates.pairs.impostor"] = float(len(others))
        keep = min(int(max(FARS) * len(others)) + 1, len(others))
        pairs = Pairs(own, np.partition(others, len(others) - keep)[-keep:], len(others))
        for far in FARS:
            told = far * len(others) >= 1
            if not told and way == "average":
                print(f"templates: {len(others)} impostors tell no FAR {far:g}", file=sys.stderr)
            found[f"templates.tar_at_far{far:.0e}.{way}"] = 100 * pairs.tar(far) if told else None
    return found


def searched(
    galleries: Mapping[str, People], probes: People, templates: Mapping[str, Floats]
) -> Figures:
    """Rank and TPIR of every way, the mean over the galleries."""
    found: Figures = {"templates.probes": float(len(probes.template))}
    for way, rows in templates.items():
        values: dict[str, list[float]] = {}
        for gallery in galleries.values():
            for name, value in search(rows, gallery, probes).items():
                values.setdefault(name, []).append(value)
        for name, every in values.items():
            found[f"templates.{name}.{way}"] = float(np.mean(every))
    return found


def search(rows: Floats, gallery: People, probes: People) -> dict[str, float]:
    """Every probe against a gallery: rank of the mated ones, TPIR where others are not mated."""
    order = np.argsort(gallery.person)
    people = gallery.person[order]
    own = np.minimum(np.searchsorted(people, probes.person), len(people) - 1)
    mated = people[own] == probes.person
    highest, rank = np.empty(len(mated), np.float32), np.empty(len(mated), np.int64)
    for start in range(0, len(mated), BLOCK):
        part = slice(start, start + BLOCK)
        cosine = rows[probes.template[part]] @ rows[gallery.template[order]].T
        highest[part] = cosine.max(axis=1)
        right = np.take_along_axis(cosine, own[part, None], axis=1)
        rank[part] = (cosine > right).sum(axis=1) + 1
    if not mated.any():
        raise DataError("no probe is of somebody in the gallery")
    found = {f"rank{r}": 100 * float((rank[mated] <= r).mean()) for r in RANKS}
    if not mated.all():
        correct = rank[mated] == 1
        for fpir in FPIRS:
            tpir = tpir_at_fpir(highest[mated], correct, highest[~mated], fpir)
            found[f"tpir_at_fpir{fpir:.0e}"] = 100 * tpir
    return found


def figures(args: argparse.Namespace) -> Figures:
    """Every way of fusing at every rate."""
    if args.meta is None:
        with tempfile.TemporaryDirectory() as folder:
            root = args.shared / "data/sequences/ytf"
            sequences(root, Path(folder), 4 if args.quick else 1)
            return measured(Path(folder), root, args)
    if (args.images is None) == (args.features is None):
        raise ArgumentError("--meta needs either --images, a folder, or --features, a file")
    return measured(args.meta, args.images, args)


def measured(meta: Path, images: Path | None, args: argparse.Namespace) -> Figures:
    """The figures of the lists in `meta`, of pictures or else of --features."""
    pictures = read_pictures(meta)
    card = None
    if images is not None or args.model is not None:
        card = load_card(args.model or DEFAULT, "embedding")
    if images is not None:
        assert card is not None
        described = of_images(images, pictures, read_marks(meta, pictures), card, args.threads)
    else:
        described = of_file(args.features, pictures, meta)
        if card is not None and card.size != described.embedding.shape[1]:
            raise DataError(
                f"{args.features} has embeddings of {described.embedding.shape[1]} numbers, "
                f"{card.name} gives {card.size}"
            )
    every, templates = fuse(pictures, described, ways(described, card), flat=args.flat)
    found: Figures = {
        "templates.pictures": float(len(pictures.files)),
        "templates.templates": float(len(every)),
    }
    searches = read_searches(meta, every)
    if searches is None or any(meta.glob("*_template_pair_label.txt")):
        found |= verified(meta, every, templates)
    if searches is not None:
        found |= searched(*searches, templates)
    return found
