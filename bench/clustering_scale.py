"""Clustering at scale: generated features, every stage timed, memory beyond the features.

Ours and what stands beside it run one after the other, each in a process of its own:
`python -m bench.clustering_scale PART N`.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.cluster.edges import Neighbourhoods
from edgeface.cluster.model import EdgeModel
from edgeface.cluster.neighbours import CELLS, EXACT_BELOW, PROBES, Neighbours, neighbours
from edgeface.cluster.people import K, described, divide, linked
from edgeface.cluster.space import Space, Strangers
from edgeface.metrics.clustering import bcubed, pairwise
from edgeface.score import topk

Figures = dict[str, float | str | None]
Floats = NDArray[np.float32]
DIMENSION = 256
RECALL_SAMPLE = 1000
# Lomax tail of class sizes: the shape is the maximum-likelihood fit to LFW's 5,749 people (scale
# 0.675 there), the scale such that the mean is near the 68 pictures of an MS1M person.
SHAPE, SCALE, LARGEST = 1.35, 24.0, 1000
# How much an appearance counts beside the person: with 0.45 the 64 nearest of a person of 1,000
# pictures are all of one appearance, which no clustering of the graph can bridge.
LOOK = 0.25
# The exact search is compared with cells and HNSW up to this size.
EXACT_UP_TO = 200_000
HNSW_UP_TO = 200_000


def generated(n: int, seed: int = 0) -> tuple[Floats, NDArray[np.int32]]:
    """Unit features (n, 256) and identities. Class sizes are heavy-tailed (SHAPE); a face is its
    person's direction, one of six appearances of that person and noise of a face's own strength,
    so cosines within a person run from 0.2 to 0.8."""
    rng = np.random.default_rng(seed)
    sizes: list[int] = []
    while sum(sizes) < n:
        sizes.append(min(LARGEST, 1 + int(rng.pareto(SHAPE) * SCALE)))
    labels = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[:n]
    rng.shuffle(labels)
    people = rng.standard_normal((len(sizes), DIMENSION), np.float32)
    looks = rng.standard_normal((len(sizes), 6, DIMENSION), np.float32)
    rows = np.empty((n, DIMENSION), np.float32)
    for start in range(0, n, 16384):
        part = labels[start : start + 16384]
        noise = rng.standard_normal((len(part), DIMENSION), np.float32)
        strength = rng.uniform(0.45, 1.8, (len(part), 1)).astype(np.float32)
        look = looks[part, rng.integers(0, 6, len(part))]
        block = people[part] + np.float32(LOOK) * look + strength * noise
        rows[start : start + 16384] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return rows, labels


def tail(sizes: NDArray[np.int64]) -> tuple[float, float]:
    """Shape and scale of the Lomax distribution whose whole numbers, plus one, are most likely
    `sizes` (p,) of classes: what SHAPE was taken from."""
    from scipy.optimize import minimize

    def unlikely(logs: NDArray[np.float64]) -> float:
        shape, spread = np.exp(logs)
        above = (1 + (sizes - 1) / spread) ** -shape
        return -float(np.log(above - (1 + sizes / spread) ** -shape + 1e-300).sum())

    shape, spread = np.exp(minimize(unlikely, [0.0, 0.0], method="Nelder-Mead").x)
    return float(shape), float(spread)


def name_of(n: int) -> str:
    return f"{n // 1000}k"


class Stages:
    """Minutes, processor minutes and peak memory of named stages of this process."""

    def __init__(self) -> None:
        self.figures: Figures = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        forget_peak()
        started, cpu = time.perf_counter(), time.process_time()
        yield
        self.figures[f"{name}.minutes"] = (time.perf_counter() - started) / 60
        self.figures[f"{name}.cpu_minutes"] = (time.process_time() - cpu) / 60
        self.figures[f"{name}.peak_gib"] = memory_gib("VmHWM")
        print(f"clustering: {name} {time.perf_counter() - started:.1f} s", file=sys.stderr)


def memory_gib(field: str) -> float:
    """This process's resident memory now (VmRSS) or at most since `forget_peak` (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 2**20
    raise RuntimeError(f"/proc/self/status has no {field}; Linux is needed")


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def searched(n: int, kept: Path) -> Figures:
    """The kNN graph of n generated faces, for `ours` to go on from: `kept` receives it."""
    rows, truth = generated(n)
    stages = Stages()
    with stages.stage("knn"):
        space = Space.of(rows)
        near = neighbours(space.rows, K)
    np.savez(kept, indices=near.indices, similarities=near.similarities)
    return stages.figures | recalls("knn", space.rows, near.indices, truth)


def ours(n: int, kept: Path, links: Path) -> Figures:
    """Every stage of `cluster` after the kNN on n generated faces; `links` receives what is
    partitioned."""
    rows, truth = generated(n)
    model = EdgeModel.load()
    held = memory_gib("VmRSS")
    found: Figures = {}
    stages = Stages()
    space = Space.of(rows)
    strangers, frame = Strangers.of(space), space.frame
    del space
    with np.load(kept) as raw:
        near = Neighbours(raw["indices"], raw["similarities"])
    started, cpu = time.perf_counter(), time.process_time()
    with stages.stage("describe"):
        around = Neighbourhoods.around(frame, near, strangers)
    with stages.stage("first_pass"):
        first = around.first_pass(model.first)
    with stages.stage("second_pass"):
        probabilities = around.second_pass(model.second, first)
        del around, first
    gate = np.zeros(n, bool)
    with stages.stage("partition"):
        labels = divide(near.indices, probabilities, gate, model.threshold)
    with stages.stage("describe_people"):
        labels = described(near.indices, probabilities, labels).labels
    found["after_knn_minutes"] = (time.perf_counter() - started) / 60
    found["after_knn_cpu_minutes"] = (time.process_time() - cpu) / 60
    found |= stages.figures
    after = ("describe", "first_pass", "second_pass", "partition", "describe_people")
    found["extra_gib"] = max(float(found[f"{s}.peak_gib"] or 0) for s in after) - held
    found["features_gib"] = rows.nbytes / 2**30
    found["people"] = float(truth.max() + 1)
    found["bcubed_f"], found["pairwise_f"] = bcubed(truth, labels).f, pairwise(truth, labels).f
    sources, targets, weights = linked(near.indices, probabilities, gate, model.threshold)
    np.savez(links, sources=sources, targets=targets, weights=weights)
    return found


def recalls(
    name: str, rows: Floats, indices: NDArray[np.int32], truth: NDArray[np.int32]
) -> Figures:
    """The share of the true 64 nearest that were found, of all and of those of the same person."""
    drawn = np.linspace(0, len(rows) - 1, min(RECALL_SAMPLE, len(rows))).astype(np.int64)
    exact = topk(rows[drawn], rows, K)[0]
    hit = np.stack([np.isin(exact[i], indices[d]) for i, d in enumerate(drawn)])
    same = truth[exact] == truth[drawn][:, None]
    return {
        f"{name}.recall": float(hit.mean()),
        f"{name}.recall_same_person": float(hit[same].mean()),
    }


def exact_knn(n: int) -> Figures:
    return _searched("exact_knn", n, lambda rows: neighbours(rows, K, exact_below=n).indices)


def cells_knn(n: int) -> Figures:
    return _searched("cells_knn", n, lambda rows: neighbours(rows, K, exact_below=0).indices)


def hnsw_knn(n: int) -> Figures:
    """hnswlib, M = 16, ef of the construction and the search 100, two threads."""
    import hnswlib

    def search(rows: Floats) -> NDArray[np.int32]:
        index = hnswlib.Index("ip", DIMENSION)
        index.init_index(n, M=16, ef_construction=100, random_seed=1)
        index.add_items(rows, num_threads=2)
        index.set_ef(100)
        found: NDArray[np.int32] = index.knn_query(rows, K, num_threads=2)[0].astype(np.int32)
        return found

    return _searched("hnsw_knn", n, search)


def faiss_knn(n: int) -> Figures:
    """faiss-cpu: exact below our own limit, above it its inverted file with the same cells and
    probes as ours, two threads."""
    import faiss

    def search(rows: Floats) -> NDArray[np.int32]:
        faiss.omp_set_num_threads(2)
        index: faiss.Index = faiss.IndexFlatIP(DIMENSION)
        if n > EXACT_BELOW:
            cells = int(CELLS * np.sqrt(n))
            index = faiss.IndexIVFFlat(index, DIMENSION, cells, faiss.METRIC_INNER_PRODUCT)
            index.nprobe = PROBES
            index.train(rows)
        index.add(rows)
        blocks = range(0, n, 16384)
        found = [index.search(rows[b : b + 16384], K)[1].astype(np.int32) for b in blocks]
        return np.concatenate(found)

    return _searched("faiss_knn", n, search)


def _searched(name: str, n: int, search: Callable[[Floats], NDArray[np.int32]]) -> Figures:
    rows, truth = generated(n)
    stages = Stages()
    with stages.stage(name):
        indices = search(rows)
    return stages.figures | recalls(name, rows, indices, truth)


def infomap_partition(links: Path, n: int) -> Figures:
    """The partition by infomap (GPL: here only) of the very links that ours divided."""
    from infomap import Infomap

    with np.load(links) as raw:
        table = np.stack([raw["sources"], raw["targets"]], axis=1), raw["weights"]
    stages = Stages()
    labels = np.arange(n, dtype=np.int32) + n
    with stages.stage("infomap"):
        im = Infomap("--two-level --silent --seed 1")
        im.add_links(np.column_stack([table[0].astype(np.float64), table[1]]))
        im.run()
        for node, module in im.get_modules().items():
            labels[node] = module
    truth = generated(n)[1]
    found = stages.figures
    found["infomap.bcubed_f"] = bcubed(truth, labels).f
    found["infomap.pairwise_f"] = pairwise(truth, labels).f
    return found


ALONE = {"exact": exact_knn, "cells": cells_knn, "hnsw": hnsw_knn, "faiss": faiss_knn}
PARTS = ("knn", "ours", "infomap", *ALONE)
NEEDS = {"hnsw": "hnswlib", "faiss": "faiss", "infomap": "infomap"}


def scale(n: int, parts: list[str], graphs: Path | None) -> Figures:
    """The figures of every part at one size, each from its own process. `knn` leaves the graph for
    `ours`, which leaves the links for `infomap`: in a temporary folder, or in `graphs`, so that
    parts can be run at different times."""
    prefix = f"clustering.scale.{name_of(n)}"
    found: Figures = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = graphs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for part in parts:
            if part not in PARTS:
                raise ValueError(f"no part {part!r} of the scale runs; one of {', '.join(PARTS)}")
            if part in NEEDS and not importlib.util.find_spec(NEEDS[part]):
                print(f"clustering: {part} is left out, {NEEDS[part]} is missing", file=sys.stderr)
                continue
            if (part == "exact" and n > EXACT_UP_TO) or (part == "hnsw" and n > HNSW_UP_TO):
                continue
            child = subprocess.run(
                [sys.executable, "-m", __name__, part, str(n), str(folder)],
                cwd=Path(__file__).parents[1],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            found |= {f"{prefix}.{k}": v for k, v in json.loads(child.stdout).items()}
    return found


def main(argv: list[str]) -> int:
    part, n, folder = argv[0], int(argv[1]), Path(argv[2])
    graph, links = folder / f"{name_of(n)}.knn.npz", folder / f"{name_of(n)}.links.npz"
    if part == "knn":
        found = searched(n, graph)
    elif part == "ours":
        found = ours(n, graph, links)
    elif part == "infomap":
        found = infomap_partition(links, n)
    else:
        found = ALONE[part](n)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
