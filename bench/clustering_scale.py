"""Clustering at scale: generated features, every stage timed, memory beyond the features."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from bench.clustering import Figures, peak_gib
from edgeface.cluster import described, divide
from edgeface.cluster.edges import EdgeModel, Neighbourhoods, Space
from edgeface.cluster.neighbours import CELLS, PROBES, neighbours
from edgeface.metrics.clustering import bcubed, pairwise
from edgeface.score import topk

DIMENSION, K = 256, 64
RECALL_SAMPLE = 1000


def generated(n: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Unit features (n, 256) and identities. Class sizes follow 1 + Pareto(1.1) * 12 cut at 1000,
    the tail of celebrity sets; a face is its person's direction, one of six appearances of that
    person and noise of a face's own strength, so cosines within a person run from 0.2 to 0.8."""
    rng = np.random.default_rng(seed)
    sizes: list[int] = []
    while sum(sizes) < n:
        sizes.append(min(1000, 1 + int(rng.pareto(1.1) * 12)))
    labels = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[:n]
    rng.shuffle(labels)
    people = rng.standard_normal((len(sizes), DIMENSION), np.float32)
    looks = rng.standard_normal((len(sizes), 6, DIMENSION), np.float32)
    rows = np.empty((n, DIMENSION), np.float32)
    for start in range(0, n, 65536):
        part = labels[start : start + 65536]
        noise = rng.standard_normal((len(part), DIMENSION), np.float32)
        strength = rng.uniform(0.45, 1.1, (len(part), 1)).astype(np.float32)
        look = looks[part, rng.integers(0, 6, len(part))]
        block = people[part] + np.float32(0.45) * look + strength * noise
        rows[start : start + 65536] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return rows, labels


def name_of(n: int) -> str:
    return f"{n / 1e6:g}m" if n >= 1_000_000 else f"{n // 1000}k"


def scale(n: int) -> Figures:
    """Minutes and peak memory of every stage on n generated faces; memory is the process's peak so
    far less what it held with the features loaded, so run one size per process for the truth."""
    prefix = f"clustering.scale.{name_of(n)}"
    rows, truth = generated(n)
    held = peak_gib()
    found: Figures = {f"{prefix}.features_gib": rows.nbytes / 2**30}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        started, cpu = time.perf_counter(), time.process_time()
        yield
        found[f"{prefix}.{name}.minutes"] = (time.perf_counter() - started) / 60
        found[f"{prefix}.{name}.cpu_minutes"] = (time.process_time() - cpu) / 60
        found[f"{prefix}.{name}.peak_gib"] = peak_gib()
        print(f"clustering: {n} {name} {time.perf_counter() - started:.1f} s", file=sys.stderr)

    with stage("knn"):
        space = Space.of(rows)
        near = neighbours(space.rows, K)
    found |= recalls(prefix, space.rows, near.indices, truth)
    started, cpu = time.perf_counter(), time.process_time()
    with stage("describe"):
        around = Neighbourhoods.around(space, near)
    with stage("edges"):
        model = EdgeModel.load()
        probabilities = around.probabilities(model)
        del around
    with stage("partition"):
        labels = divide(near.indices, probabilities, np.zeros(n, bool), model.threshold)
    with stage("describe_people"):
        labels = described(near.indices, probabilities, labels).labels
    found[f"{prefix}.after_knn_minutes"] = (time.perf_counter() - started) / 60
    found[f"{prefix}.after_knn_cpu_minutes"] = (time.process_time() - cpu) / 60
    found[f"{prefix}.extra_gib"] = peak_gib() - held
    found[f"{prefix}.bcubed_f"] = bcubed(truth, labels).f
    found[f"{prefix}.pairwise_f"] = pairwise(truth, labels).f
    found |= faiss_beside(prefix, space.rows)
    return found


def recalls(
    prefix: str, rows: NDArray[np.float32], indices: NDArray[np.int32], truth: NDArray[np.int32]
) -> Figures:
    """The share of the true 64 nearest that were found, of all and of those of the same person."""
    drawn = np.linspace(0, len(rows) - 1, min(RECALL_SAMPLE, len(rows))).astype(np.int64)
    exact = topk(rows[drawn], rows, K)[0]
    hit = np.stack([np.isin(exact[i], indices[d]) for i, d in enumerate(drawn)])
    same = truth[exact] == truth[drawn][:, None]
    return {
        f"{prefix}.knn.recall": float(hit.mean()),
        f"{prefix}.knn.recall_same_person": float(hit[same].mean()),
    }


def faiss_beside(prefix: str, rows: NDArray[np.float32]) -> Figures:
    """faiss-cpu's inverted file with the same cells and probes, two threads."""
    if not importlib.util.find_spec("faiss"):
        print("clustering: faiss is left out, faiss-cpu is not installed", file=sys.stderr)
        return {f"{prefix}.faiss_knn.minutes": None}
    import faiss

    faiss.omp_set_num_threads(2)
    started, cpu = time.perf_counter(), time.process_time()
    index: faiss.Index
    if len(rows) > 60_000:
        coarse = faiss.IndexFlatIP(DIMENSION)
        cells = int(CELLS * np.sqrt(len(rows)))
        index = faiss.IndexIVFFlat(coarse, DIMENSION, cells, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = PROBES
        index.train(rows)
    else:
        index = faiss.IndexFlatIP(DIMENSION)
    index.add(rows)
    for start in range(0, len(rows), 16384):
        index.search(rows[start : start + 16384], K)
    return {
        f"{prefix}.faiss_knn.minutes": (time.perf_counter() - started) / 60,
        f"{prefix}.faiss_knn.cpu_minutes": (time.process_time() - cpu) / 60,
    }
