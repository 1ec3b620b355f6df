"""How well embedders tell people apart: LFW View 2 (10 folds, each fold's threshold from the other
nine) and the true accept rate at 3 false accepts in the 3,000 impostor pairs; how their embeddings
cluster (`edgeface.cluster`) on LFW's 311 people with six pictures or more and on the 46 people of
the 105-person set's test half; how INT8 agrees with float; and what those pairs hide (see
`bench.accuracy_people`): held-out families, all pairs of LFW, small faces, turned heads, children.
For every shipped embedder and, with --peers, the original project's models; with --teachers those
they learned from; with --embedder any other file. LFW, the 105-person set and the children are for
testing: read them once, at the end of a training; `--only heldout` leaves them alone, and figures
from them come with the date. --quick: two folds of LFW, nothing else."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.__main__ import today
from bench.accuracy_people import Model, heldout, tested
from edgeface.cluster import cluster
from edgeface.embed import Embedder
from edgeface.errors import DataError
from edgeface.metrics import (
    adjusted_rand_index,
    fowlkes_mallows,
    normalized_mutual_information,
    pairwise,
)
from edgeface.models import cards, digest
from edgeface.runtime import Runtime, choose
from export.protocols.embedders import keyed, open_embedder, original, teachers
from export.protocols.identities import TEACHER
from export.protocols.lfw import read_lfw, verify
from export.protocols.pictures import stack

Floats = NDArray[np.float32]
Figures = dict[str, float | str | None]


PARTS = ("view2", "clusters", "heldout", "tested")
KEYS = {
    "mobilefacenet": "fp32",
    "mobilefacenet-int8": "int8",
    "mobilefacenet-edge": "edge.fp32",
    "mobilefacenet-edge-int8": "edge.int8",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--embedder", action="append", default=[], metavar="[NAME=]FILE", help="measure it as well"
    )
    parser.add_argument("--shipped", nargs="*", metavar="NAME", help="of the shipped only these")
    parser.add_argument("--peers", action="store_true", help="the original project's models too")
    parser.add_argument("--teachers", action="store_true", help="the teachers too")
    parser.add_argument("--only", action="append", choices=PARTS, help="these parts, default all")
    parser.add_argument("--cache", type=Path, help="folder to keep embeddings in")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runtime", default="auto", help="for models with a card")


def folder_faces(root: Path, *, least: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures and person of every folder under `root` with `least` pictures or more."""
    people = [sorted(d.glob("*.webp")) for d in sorted(root.iterdir()) if d.is_dir()]
    people = [files for files in people if len(files) >= least]
    images = stack(f for files in people for f in files)
    return images, np.repeat(np.arange(len(people), dtype=np.int64), [len(f) for f in people])


def grouped(embeddings: Floats, person: NDArray[np.int64]) -> dict[str, float]:
    """What `edgeface.cluster` makes of the embeddings: NMI, ARI, pairwise F, Fowlkes-Mallows (which
    the original's tables call pairwise F)."""
    labels = cluster(embeddings).labels
    return {
        "nmi": normalized_mutual_information(person, labels),
        "ari": adjusted_rand_index(person, labels),
        "pairwise_f": pairwise(person, labels).f,
        "fowlkes_mallows": fowlkes_mallows(person, labels),
    }


def carded(model: str | Path, runtime: Runtime, threads: int) -> Model:
    """An embedder that has a card."""
    embedder = Embedder.load(model, runtime=runtime, threads=threads)
    card, chosen = embedder.card, choose(runtime, embedder.card)
    stamp = f"{digest(card.file_for(chosen))[:12]}.{chosen}"
    return Model(embedder, stamp, card.threshold.value)


def foreign(path: Path, threads: int) -> Model:
    """An embedder without a card, opened as `open_embedder` does."""
    return Model(open_embedder(path, threads=threads), f"{digest(path)[:12]}.openvino", None)


def models(args: argparse.Namespace) -> dict[str, Model]:
    """Every model asked for by name; `original.fp32` and the like are peers."""
    names = [c.name for c in cards() if c.task == "embedding"]
    wanted = names if args.shipped is None else args.shipped
    found = {name: carded(name, args.runtime, args.threads) for name in wanted}
    for text in args.embedder:
        name, _, file = text.rpartition("=")
        path = Path(file)
        name = name or path.stem
        if name in found:
            raise DataError(f"two embedders are called {name}; give one as NAME={file}")
        own = path.with_suffix(".json").exists()
        found[name] = (
            carded(path, args.runtime, args.threads) if own else foreign(path, args.threads)
        )
    if args.teachers:
        found |= {k: foreign(p, args.threads) for k, p in teachers(args.shared).items()}
    if args.peers:
        peers = original(args.shared)
        found |= {f"original.{k}": foreign(p, args.threads) for k, p in peers.items()}
    return found


def view2(data: Path, found: dict[str, Model], *, quick: bool) -> Figures:
    """LFW's official pairs, and how INT8 agrees with float on their pictures."""
    images, index, same, fold = read_lfw(data / "lfw", folds=2 if quick else 10)
    out: Figures = {"lfw.pairs": float(len(same))}
    seen: dict[str, Floats] = {}
    for name, model in found.items():
        print(f"accuracy: {name}, LFW", file=sys.stderr, flush=True)
        seen[name] = model.embed(images)
        out |= keyed("", KEYS.get(name, name), verify(seen[name], index, same, fold))
    for name, embeddings in seen.items():
        whole = name.removesuffix("-int8")
        if whole != name and whole in seen:
            cosine = (embeddings * seen[whole]).sum(1)
            values = {"mean": float(cosine.mean()), "min": float(cosine.min())}
            out |= keyed("cosine", KEYS.get(name, name), values)
    return out


def clusters(data: Path, found: dict[str, Model]) -> Figures:
    """How embeddings of people with many pictures cluster."""
    out: Figures = {}
    sets = {"lfw311": (data / "lfw" / "aligned112", 6), "test105": (data / "pins" / "test", 1)}
    for key, (root, least) in sets.items():
        images, person = folder_faces(root, least=least)
        out[f"{key}.images"], out[f"{key}.people"] = float(len(images)), float(person[-1] + 1)
        for name, model in found.items():
            print(f"accuracy: {name}, {key}", file=sys.stderr, flush=True)
            out |= keyed(key, KEYS.get(name, name), grouped(model.embed(images), person))
    return out


def figures(args: argparse.Namespace) -> Figures:
    data, found = args.shared / "data", models(args)
    parts = ["view2"] if args.quick else args.only or PARTS
    out: Figures = {}
    if "view2" in parts:
        out |= view2(data, found, quick=args.quick)
    if "clusters" in parts:
        out |= clusters(data, found)
    if "heldout" in parts:
        out |= heldout(args.shared, found, args.cache)
    if "tested" in parts:
        teacher = foreign(teachers(args.shared)[TEACHER], args.threads)
        out |= tested(args.shared, found, teacher, args.cache)
    if set(parts) - {"heldout"}:
        out["testsets.read"] = today()
    return out
