"""How well the shipped embedders tell people apart: LFW View 2 (10 folds, each fold's threshold
from the other nine) and the true accept rate at 3 false accepts in the 3,000 impostor pairs; how
their embeddings cluster (`edgeface.cluster`) on LFW's 311 people with six pictures or more and on
the 46 people of the 105-person set's test half; how INT8 agrees with float. For every shipped
embedder and, with --peers, the original project's models. --quick: two folds, no clustering."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.cluster import cluster
from edgeface.embed import Embedder
from edgeface.metrics import (
    adjusted_rand_index,
    fowlkes_mallows,
    normalized_mutual_information,
    pairwise,
)
from edgeface.models import cards
from edgeface.runtime import Runtime
from export.protocols.embedders import keyed, open_embedder, original
from export.protocols.identities import Embed
from export.protocols.lfw import read_lfw, verify
from export.protocols.pictures import stack

Floats = NDArray[np.float32]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", type=Path, action="append", help="ONNX or OpenVINO IR to measure"
    )
    parser.add_argument("--peers", action="store_true", help="the original project's models too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runtime", default="auto", help="for the shipped models")


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


def shipped(runtime: Runtime, threads: int) -> dict[str, Embed]:
    """Every shipped embedder by report key: `fp32` and `int8` of the main network, `edge.fp32` and
    `edge.int8`, any other by its name."""
    known = {
        "mobilefacenet": "fp32",
        "mobilefacenet-int8": "int8",
        "mobilefacenet-edge": "edge.fp32",
        "mobilefacenet-edge-int8": "edge.int8",
    }
    return {
        known.get(c.name, c.name): Embedder.load(c.path, runtime=runtime, threads=threads)
        for c in cards()
        if c.task == "embedding"
    }


def models(args: argparse.Namespace) -> dict[str, Embed]:
    """Report key → embedder of every model asked for."""
    found: dict[str, Embed] = {}
    if args.model:
        for path in args.model:
            found[path.stem] = open_embedder(path, threads=args.threads)
    else:
        found = shipped(args.runtime, args.threads)
    if args.peers:
        for key, path in original(args.shared).items():
            found[f"original.{key}"] = open_embedder(path, threads=args.threads)
    return found


def figures(args: argparse.Namespace) -> dict[str, float | str | None]:
    data, found = args.shared / "data", models(args)
    images, index, same, fold = read_lfw(data / "lfw", folds=2 if args.quick else 10)
    out: dict[str, float | str | None] = {"lfw.pairs": float(len(same))}
    seen: dict[str, Floats] = {}
    for name, embed in found.items():
        print(f"accuracy: {name}, LFW", file=sys.stderr, flush=True)
        seen[name] = embed(images)
        out |= keyed("", name, verify(seen[name], index, same, fold))
    for name, embeddings in seen.items():
        front, _, precision = name.rpartition(".")
        whole = f"{front}.fp32" if front else "fp32"
        if precision == "int8" and whole in seen:
            cosine = (embeddings * seen[whole]).sum(1)
            values = {"mean": float(cosine.mean()), "min": float(cosine.min())}
            out |= keyed("cosine", name, values)
    if args.quick:
        return out
    sets = {"lfw311": (data / "lfw" / "aligned112", 6), "test105": (data / "pins" / "test", 1)}
    for key, (root, least) in sets.items():
        images, person = folder_faces(root, least=least)
        out[f"{key}.images"], out[f"{key}.people"] = float(len(images)), float(person[-1] + 1)
        for name, embed in found.items():
            print(f"accuracy: {name}, {key}", file=sys.stderr, flush=True)
            out |= keyed(key, name, grouped(embed(images), person))
    return out
