"""`python -m export cohort`: the impostor model that ships beside an embedder.

Embeds packed crops, one per person where people are known, and fits `edgeface.cohort.Cohort`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.cohort import COMPONENTS, Cohort
from edgeface.embed import DEFAULT, Embedder
from export.data import Pack, open_pack

BATCH = 64


def choose(data: Pack, most: int) -> NDArray[np.int64]:
    """At most `most` rows of a pack: the first of every identity and a sample of those without."""
    rows = np.flatnonzero(data.keep)
    known = rows[data.identity[rows] >= 0]
    _, first = np.unique(data.identity[known], return_index=True)
    nameless = rows[data.identity[rows] < 0]
    rng = np.random.default_rng(0)
    spare = max(0, min(len(nameless), most - len(first)))
    some = np.concatenate([known[first], rng.choice(nameless, spare, replace=False)])
    return np.sort(rng.choice(some, min(most, len(some)), replace=False)).astype(np.int64)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export cohort", description=__doc__)
    parser.add_argument("--pack", type=Path, required=True, help="crops packed by `export pack`")
    parser.add_argument("--model", default=DEFAULT, help="name or file of the embedder")
    parser.add_argument("--out", type=Path, help="default: beside the model, MODEL.cohort.npz")
    parser.add_argument("--most", type=int, default=12_000, help="people to fit to")
    parser.add_argument("--components", type=int, default=COMPONENTS)
    args = parser.parse_args(argv)
    embedder, data = Embedder.load(args.model), open_pack(args.pack)
    rows, parts = choose(data, args.most), []
    for start in range(0, len(rows), BATCH):
        parts.append(embedder(np.ascontiguousarray(data.images[rows[start : start + BATCH]])))
        print(f"\rcohort: {start + BATCH}/{len(rows)}", end="", file=sys.stderr, flush=True)
    cohort = Cohort.fit(
        np.concatenate(parts), model=embedder.card.digest, components=args.components
    )
    out = args.out or embedder.card.path.with_suffix(".cohort.npz")
    cohort.save(out)
    print(f"\rcohort: {len(rows)} people, {out.stat().st_size} bytes: {out}", file=sys.stderr)
    return 0
