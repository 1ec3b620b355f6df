"""What opening a gallery takes, and whether searches wait while its index is written.

`open_s` has the index beside the file, `open_cold_s` has not; then a sketch answers until the graph
is built (`cold_*`). `open_cpu_s` is the processor time of the former, with what another core does
meanwhile: to compare the index with its digest; `open_thread_cpu_s` that of the thread which opens,
and so how long opening takes where two cores are free and the files are in memory. Both are of a
process that does nothing else, and `peak_memory_mib` is what that process took at most to open the
gallery and to search it, with those pages of the index's file that were mapped.
`written.longest_search_ms` is the longest search while the index is written once more, beside the
longest of as many before it.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from edgeface.errors import GalleryError
from edgeface.gallery import Gallery
from edgeface.gallery.index.mirror import SAVE_AFTER
from edgeface.types import Array

K = 5


def strict(similarities: Array, truth: Array) -> float:
    """The share of probes whose best similarity is the best there is."""
    return float(np.mean(similarities >= truth - 1e-5))


def opening(
    path: Path, cache: Path | None, probes: Array, truth: Array
) -> dict[str, float | str | None]:
    """How long until the first answer and how much memory, with and without the saved index."""
    asked = path.with_name("probes.npz")
    np.savez(asked, probes=probes, truth=truth)
    warm = _apart(path, asked)
    kept = None if cache is None else cache.rename(cache.with_name("kept"))
    cold = _apart(path, asked)
    if kept is not None and cache is not None:
        kept.replace(cache)
    return {
        "open_s": warm["open_s"],
        "open_cpu_s": warm["open_cpu_s"],
        "open_thread_cpu_s": warm["open_thread_cpu_s"],
        "peak_memory_mib": warm["peak_memory_mib"],
        "open_cold_s": cold["open_s"],
        "cold_search_ms": cold["search_ms"],
        "cold_recall_at_1": cold["recall_at_1"],
        "cold_peak_memory_mib": cold["peak_memory_mib"],
    }


def _apart(path: Path, asked: Path) -> dict[str, float]:
    """`open_and_search` in a process of its own."""
    command = [sys.executable, "-m", "bench.gallery_opening", str(path), str(asked)]
    answer = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
    return dict(json.loads(answer))


def open_and_search(path: Path, asked: Path) -> dict[str, float]:
    """Open a gallery, search it, and say what that took. The process ends without waiting for the
    graph that a cold one builds."""
    with np.load(asked) as file:
        probes, truth = file["probes"][:200], file["truth"][:200]
    start, spent, alone = time.perf_counter(), time.process_time(), time.thread_time()
    with Gallery.open(path) as gallery:
        gallery.search(probes[0], K)
        opened, spent = time.perf_counter() - start, time.process_time() - spent
        alone = time.thread_time() - alone
        start = time.perf_counter()
        found = gallery.search_many(probes, 1)
        searched = time.perf_counter() - start
        # Not ru_maxrss: a child inherits its parent's, which holds all the rows.
        status = Path("/proc/self/status").read_text(encoding="ascii")
    best = np.array([f[0].similarity for f in found], np.float32)
    return {
        "open_s": opened,
        "open_cpu_s": spent,
        "open_thread_cpu_s": alone,
        "search_ms": 1e3 * searched / len(probes),
        "recall_at_1": strict(best, truth),
        "peak_memory_mib": int(status.split("VmHWM:")[1].split()[0]) / 1024,
    }


def writing(path: Path, probes: Array) -> dict[str, float | str | None]:
    """The longest search while the index is written, which closing does after enough changes."""
    gallery = Gallery.open(path)
    gallery.settle()
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((SAVE_AFTER, probes.shape[1]), np.float32)
    gallery.enroll("a crowd", rows / np.linalg.norm(rows, axis=1, keepdims=True))
    spent: list[float] = []
    ready = threading.Event()

    def search() -> None:
        for probe in itertools.cycle(probes):
            start = time.perf_counter()
            try:
                gallery.search(probe, K)
            except GalleryError:  # it has been closed
                return
            spent.append(time.perf_counter() - start)
            if len(spent) == len(probes):
                ready.set()

    thread = threading.Thread(target=search)
    thread.start()
    ready.wait()
    before, start = len(spent), time.perf_counter()
    gallery.close()
    took = time.perf_counter() - start
    thread.join()
    during = spent[before:]
    return {
        "written.s": took,
        "written.searches": float(len(during)),
        "written.longest_search_ms": 1e3 * max(during, default=took),
        "written.longest_search_before_ms": 1e3 * max(spent[max(0, before - len(during)) : before]),
    }


if __name__ == "__main__":
    print(json.dumps(open_and_search(Path(sys.argv[1]), Path(sys.argv[2]))))
