"""How well, how fast and how small a gallery is, beside bare hnswlib, usearch and faiss.

Synthetic people, ten pictures each: anisotropic centres, pictures at cosine 0.8 +- 0.06 to them;
probes are further pictures of the same people. Recall is against a full scan: the share of probes
for which the gallery's best similarity is the best there is. Searches of the gallery, of bare
hnswlib (the same graph, the same number of candidates) and of faiss alternate, one probe at a time,
and in batches of 64; each goes through the probes in an order of its own, as what one has just
looked at is in the cache for the next. `insert_ms` is one picture and one commit, `bulk_insert_ms`
one of 200 in `Gallery.batch`. What opening takes, and searches while the index is written, is said
in `gallery_opening`.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import gallery_opening
from edgeface.gallery import Gallery
from edgeface.gallery.exchange import Table
from edgeface.gallery.index import mirror
from edgeface.gallery.index.hnsw import EF_CONSTRUCTION, Hnsw, M, breadth
from edgeface.gallery.index.scan import THREADS, Exact, Searcher
from edgeface.score import topk
from edgeface.types import Array

MODEL, PICTURES, K, PROBES = "bench", 10, 5, 1000
NAMES = {10_000: "10k", 100_000: "100k", 1_000_000: "1M"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How many, how long, where."""
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dimensions", type=int, default=128, help="as the shipped embedder has")
    parser.add_argument("--folder", type=Path, help="where the galleries are made")
    parser.add_argument(
        "--peers-up-to", type=int, default=100_000, help="build usearch and faiss up to this size"
    )


def unit(rows: Array) -> Array:
    """Rows of length one."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def crowd(n: int, size: int) -> tuple[Array, Array]:
    """(n, d) pictures of n / 10 people and `PROBES` further pictures of some of them."""
    rng = np.random.default_rng(0)
    spread = np.exp(-np.arange(size) / (0.5 * size)).astype(np.float32)
    centres = unit(rng.standard_normal((n // PICTURES, size), np.float32) * spread)

    def pictures(which: Any) -> Array:
        cosine = np.clip(rng.normal(0.8, 0.06, len(which)), 0.5, 0.98).astype(np.float32)[:, None]
        centre = centres[which]
        noise = rng.standard_normal(centre.shape, np.float32) * spread
        noise = unit(noise - (noise * centre).sum(axis=1, keepdims=True) * centre)
        return unit(cosine * centre + np.sqrt(1 - cosine**2) * noise)

    rows = pictures(np.repeat(np.arange(n // PICTURES), PICTURES))
    return rows, pictures(rng.integers(0, n // PICTURES, PROBES))


def table(rows: Array) -> Table:
    """The pictures as what a gallery imports."""
    n = len(rows)
    return Table(
        model=MODEL,
        embedding=rows,
        quality=np.full(n, 0.9, np.float32),
        created=np.zeros(n),
        crop=[b""] * n,
        text={
            "name": [f"person {i // PICTURES}" for i in range(n)],
            "kind": ["known"] * n,
            "external_id": [""] * n,
            "metadata": ["{}"] * n,
            "provenance": ["user"] * n,
            "source": [""] * n,
        },
    )


def alternate(probes: Array, calls: dict[str, Callable[[Array], Any]]) -> dict[str, float]:
    """Median seconds of each call on one probe: the calls take turns in any order, and each goes
    through the probes in its own."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    rng = np.random.default_rng(0)
    places = {name: rng.permutation(len(probes)) for name in calls}
    for i in range(len(probes)):
        for name in rng.permutation(list(calls)).tolist():
            probe = probes[places[name][i]][None]
            start = time.perf_counter()
            calls[name](probe)
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(t)) for name, t in times.items()}


def measure(folder: Path, n: int, size: int, peers: bool) -> dict[str, float | str | None]:
    """Everything about a gallery of n pictures."""
    rows, probes = crowd(n, size)
    truth = topk(probes, rows, 1, threads=THREADS)[1][:, 0]
    path, result = folder / "bench.gallery", dict[str, float | str | None]()
    start = time.perf_counter()
    gallery = Gallery.open(path, model=MODEL, size=size)
    gallery.insert(table(rows))
    result["import_ms_each"] = 1e3 * (time.perf_counter() - start) / n
    gallery.settle()
    result["index_ms_each"] = 1e3 * (time.perf_counter() - start) / n
    cache = next(folder.glob("bench.gallery-index-*"), None)
    found = rivals(rows, probes, truth) if peers else {}
    result |= searching(gallery, rows, probes, truth, cache, found)
    start = time.perf_counter()
    for i in range(20):
        gallery.enroll(f"newcomer {i}", probes[i])
    result["insert_ms"] = 1e3 * (time.perf_counter() - start) / 20
    start = time.perf_counter()
    with gallery.batch():
        for i in range(200):
            gallery.enroll(f"one of many {i}", probes[20 + i])
    result["bulk_insert_ms"] = 1e3 * (time.perf_counter() - start) / 200
    with gallery.batch():
        for _ in range(220):
            gallery.undo()
    gallery.close()
    result["bytes_per_template"] = path.stat().st_size / n
    result["index_bytes_per_template"] = cache.stat().st_size / n if cache else 0.0
    result |= gallery_opening.opening(path, cache, probes, truth)
    if cache is not None:
        result |= gallery_opening.writing(path, probes)
    return result


def bare_graph(rows: Array, cache: Path | None) -> tuple[Any, float]:
    """A graph in hnswlib alone, the gallery's own where it has one, and seconds per insert."""
    import hnswlib

    some = rows[: min(len(rows), 5000)]
    bare = hnswlib.Index(space="ip", dim=rows.shape[1])
    bare.init_index(max_elements=len(rows), M=M, ef_construction=EF_CONSTRUCTION)
    bare.set_num_threads(THREADS)
    start = time.perf_counter()
    bare.add_items(some)
    built = (time.perf_counter() - start) / len(some)
    if cache is not None:
        bare = hnswlib.Index(space="ip", dim=rows.shape[1])
        bare.load_index(str(cache))
        bare.set_num_threads(THREADS)
    elif len(some) < len(rows):
        bare.add_items(rows[len(some) :])
    bare.set_ef(breadth(len(rows)))
    return bare, built


def searching(
    gallery: Gallery,
    rows: Array,
    probes: Array,
    truth: Array,
    cache: Path | None,
    others: dict[str, Rival | None],
) -> dict[str, float | str | None]:
    """Recall and time of the gallery, of bare hnswlib and of other libraries."""
    bare, built = bare_graph(rows, cache)
    take = 4 * K  # what the gallery asks for to name five people
    found = gallery.search_many(probes, K)
    _, distances = bare.knn_query(probes, take)
    one = alternate(
        probes[:300],
        {
            "gallery": lambda p: gallery.search(p[0], K),
            "hnswlib": lambda p: bare.knn_query(p, take),
            **{name: rival.search for name, rival in others.items() if rival is not None},
        },
    )
    many = alternate(
        np.arange(16, dtype=np.float32),
        {
            "gallery": lambda i: gallery.search_many(probes[64 * int(i[0] % 15) :][:64], K),
            "hnswlib": lambda i: bare.knn_query(probes[64 * int(i[0] % 15) :][:64], take),
        },
    )
    result: dict[str, float | str | None] = {}
    for name, rival in others.items():
        if rival is not None:
            result[f"{name}.insert_ms"], result[f"{name}.recall_at_1"] = (
                rival.insert_ms,
                rival.recall,
            )
            result[f"qps_ratio_to_{name}"] = one[name] / one["gallery"]
        result[f"{name}.search_ms"] = None if rival is None else 1e3 * one[name]
    return result | {
        "recall_at_1": gallery_opening.strict(
            np.array([f[0].similarity for f in found], np.float32), truth
        ),
        "search_ms": 1e3 * one["gallery"],
        "batch_search_ms_each": 1e3 * many["gallery"] / 64,
        "qps_ratio_to_hnswlib": one["hnswlib"] / one["gallery"],
        "batch_qps_ratio_to_hnswlib": many["hnswlib"] / many["gallery"],
        "hnswlib.recall_at_1": gallery_opening.strict(1.0 - distances[:, 0], truth),
        "hnswlib.search_ms": 1e3 * one["hnswlib"],
        "hnswlib.insert_ms": 1e3 * built,
    }


@dataclass(frozen=True, slots=True)
class Rival:
    """Another library's index of the same rows: `search` gives the similarities it found."""

    search: Callable[[Array], Any]
    insert_ms: float
    recall: float


def rivals(rows: Array, probes: Array, truth: Array) -> dict[str, Rival | None]:
    """usearch and faiss with the same graph parameters; None where one is not installed."""
    made: dict[str, tuple[Callable[[Array], Any], Callable[[Any, Array], Any]]] = {
        "usearch": (
            _usearch,
            lambda index, p: 1.0 - np.atleast_2d(index.search(p, 4 * K).distances)[:, 0],
        ),
        "faiss": (_faiss, lambda index, p: index.search(p, 4 * K)[0][:, 0]),
    }
    result: dict[str, Rival | None] = {}
    for name, (build, search) in made.items():
        try:
            importlib.import_module(name)
        except ImportError:
            result[name] = None
            continue
        start = time.perf_counter()
        call = functools.partial(search, build(rows))
        built = 1e3 * (time.perf_counter() - start) / len(rows)
        result[name] = Rival(call, built, gallery_opening.strict(call(probes), truth))
    return result


def _usearch(rows: Array) -> Any:
    from usearch.index import Index

    index = Index(ndim=rows.shape[1], metric="ip", connectivity=M, expansion_add=EF_CONSTRUCTION,
                  expansion_search=breadth(len(rows)), dtype="f32")  # fmt: skip
    index.add(np.arange(len(rows)), rows, threads=THREADS)
    return index


def _faiss(rows: Array) -> Any:
    import faiss

    faiss.omp_set_num_threads(THREADS)
    index = faiss.IndexHNSWFlat(rows.shape[1], M, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = EF_CONSTRUCTION, breadth(len(rows))
    index.add(rows)
    return index


def crossover(size: int, counts: list[int]) -> dict[str, float | str | None]:
    """Milliseconds of one exact search and of one through a graph, by the number of samples."""
    rows, probes = crowd(max(counts), size)
    result: dict[str, float | str | None] = {}
    graph = Hnsw.empty(size, max(counts))
    for n in counts:
        exact: Searcher = Exact(size)
        exact.add(np.arange(n), rows[:n])
        new = np.arange(len(graph), n)
        graph.add(new, rows[new])

        def scan(p: Array, exact: Searcher = exact) -> Any:
            return exact.search(p, 4 * K)

        times = alternate(
            probes[:100],
            {
                "exact": scan,
                "graph": lambda p: graph.search(p, 20),
            },
        )
        for name, seconds in times.items():
            result[f"crossover.{n}.{name}_ms"] = 1e3 * seconds
    return result


def churn(size: int, n: int) -> float:
    """Recall of a graph after a third of its samples were deleted and replaced, three times."""
    rows, probes = crowd(2 * n, size)
    graph, rng = Hnsw.empty(size, n), np.random.default_rng(0)
    graph.add(np.arange(n), rows[:n])
    for step in range(3):
        held = graph.contents()[0]
        graph.remove(np.sort(rng.choice(held, n // 3, replace=False)))
        new = np.arange(n + step * (n // 3), n + (step + 1) * (n // 3))
        graph.add(new, rows[new])
    _, kept = graph.contents()
    truth = topk(probes, kept, 1, threads=THREADS)[1][:, 0]
    return gallery_opening.strict(graph.search(probes, K)[1][:, 0], truth)


def figures(args: argparse.Namespace) -> dict[str, float | str | None]:
    """Every figure, by gallery size."""
    sizes = [10_000] if args.quick else args.sizes
    result: dict[str, float | str | None] = {
        "gallery.dimensions": float(args.dimensions),
        "gallery.exact_limit": float(mirror.EXACT_LIMIT),
    }
    for n in sizes:
        folder = Path(tempfile.mkdtemp(dir=args.folder))
        try:
            measured = measure(folder, n, args.dimensions, n <= args.peers_up_to)
        finally:
            shutil.rmtree(folder)
        result |= {f"gallery.{NAMES.get(n, str(n))}.{k}": v for k, v in measured.items()}
    counts = [500, 1000] if args.quick else [1000, 2000, 5000, 10_000, 20_000]
    result |= {f"gallery.{k}": v for k, v in crossover(args.dimensions, counts).items()}
    result["gallery.churn.recall_at_1"] = churn(args.dimensions, 900 if args.quick else 9000)
    return result
