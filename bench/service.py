"""What a live service has to do fast: give a stranger a name in the past, and say whether a face
was ever here.

`name_100k_ms` is one call of `Sightings.people.name` for a stranger with half of N appearances,
while the other half are of nobody and are compared with them; `undo_100k_ms` takes it back.
`name_100k_cpu_ms` is the processor time of the first, which says more on a busy machine.
`ever_here_1m_ms` is the median of questions about faces that were here, over N appearances, after
the first, which loads the templates (`ever_here_1m_load_s`); `ever_here_1m_found` the share that
finds its own row. Appearances are random unit rows.

`cameras4.*`, `second_camera_mb` and `cuts.*` are explained in `bench/service_cameras.py`,
`cameras4.latency_*` in `bench/service_latency.py`, `kill9.*` in `bench/service_kill9.py`,
`visits.*` in `bench/service_visits.py`, `promise.*` in `bench/service_promise.py`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.service_cameras import figures_of_cameras
from bench.service_kill9 import kill
from bench.service_promise import promise
from bench.service_visits import visits
from edgeface.gallery import Gallery
from edgeface.sightings import Sightings
from edgeface.types import Array

Figures = dict[str, float | str | None]
SIZE = 128
QUESTIONS = 50
PARTS = ("naming", "asking", "visits", "promise", "kill9", "cameras", "latency", "cuts")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How many appearances, for how long, and what of it all."""
    parser.add_argument("--named", type=int, default=100_000, help="appearances, naming")
    parser.add_argument("--seconds", type=float, default=60.0, help="that cameras are watched")
    parser.add_argument("--cuts", type=int, default=50, help="of one camera")
    parser.add_argument("--kills", type=int, default=50, help="of a service that logs events")
    parser.add_argument("--minutes", type=float, default=0.0, help="over which cuts are spread")
    parser.add_argument("--part", action="append", choices=PARTS, help="nothing but this; again")
    parser.add_argument("--asked", type=int, default=1_000_000, help="appearances, ever here")


def unit_rows(n: int, seed: int) -> Array:
    """(n, SIZE) random unit rows."""
    rows = np.random.default_rng(seed).standard_normal((n, SIZE), np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def fill(store: Sightings, rows: Array, person: int | None, share: float) -> None:
    """Write an appearance per row that has ended, the first `share` of them of `person`."""
    with store.file.write() as execute:
        for n, row in enumerate(rows):
            who = person if n < share * len(rows) else None
            execute(
                "INSERT INTO appearance (run, track, camera, first, last, person, status, "
                "threshold, origin, template, weight, faces, ended) "
                "VALUES ('r', ?, 'door', ?, ?, ?, 'unknown', 0.4, 'card', ?, 1, 1, 1)",
                (n, n, n + 1, who, row.tobytes()),
            )


def naming(folder: Path, n: int) -> Figures:
    """See the module's text."""
    rows = unit_rows(n, 1)
    with Gallery.open(folder / "named.gallery", model="m", size=SIZE) as gallery:
        stranger = gallery.add_stranger(rows[0])
        with Sightings.open(gallery) as store:
            fill(store, rows, stranger.id, 0.5)
            start, busy = time.perf_counter(), time.process_time()
            change = store.people.name(stranger.id, "Ann")
            named, busy = time.perf_counter(), time.process_time() - busy
            store.people.undo(change.id)
            undone = time.perf_counter()
    return {
        "service.name_100k_ms": 1e3 * (named - start),
        "service.name_100k_cpu_ms": 1e3 * busy,
        "service.undo_100k_ms": 1e3 * (undone - named),
    }


def asking(folder: Path, n: int) -> Figures:
    """See the module's text."""
    rows = unit_rows(n, 2)
    with (
        Gallery.open(folder / "asked.gallery", model="m", size=SIZE) as gallery,
        Sightings.open(gallery) as store,
    ):
        fill(store, rows, None, 0)
        start = time.perf_counter()
        store.ever_here(rows[0], 0.5)
        load, times, found = time.perf_counter() - start, [], 0
        for n_row in np.random.default_rng(3).integers(0, n, QUESTIONS).tolist():
            start = time.perf_counter()
            answer = store.ever_here(rows[n_row], 0.5)
            times.append(time.perf_counter() - start)
            found += bool(answer) and answer[0][0].track == n_row
    return {
        "service.ever_here_1m_ms": 1e3 * float(np.median(times)),
        "service.ever_here_1m_load_s": load,
        "service.ever_here_1m_found": found / QUESTIONS,
    }


def figures(args: argparse.Namespace) -> Figures:
    """All parts, or those asked for, in a folder that is removed afterwards."""
    few, parts = 50 if args.quick else 1, args.part or PARTS
    found: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        if "naming" in parts:
            found |= naming(Path(folder), args.named // few)
        if "asking" in parts:
            found |= asking(Path(folder), args.asked // few)
        if "kill9" in parts:
            killed = kill(Path(folder), 3 if args.quick else args.kills)
            found |= {f"service.{key}": value for key, value in killed.items()}
    if "visits" in parts:
        found |= visits(args.shared, 4 if args.quick else 1)
    if "promise" in parts:
        found |= promise(args.shared, args.quick)
    if {"cameras", "latency", "cuts"} & set(parts):
        found |= figures_of_cameras(args, parts)
    return found
