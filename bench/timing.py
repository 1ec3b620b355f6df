"""Interleaved timing of methods that do the same job, and the ceilings of this machine.

One thread is timed by process CPU time, pinned to one core: a neighbour's time slices do not count.
More threads are timed by the wall, after a pause in which the pools of the method before stop
spinning.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from edgeface import score

Method = Callable[[NDArray[np.float32]], Any]
LEAST = 2e-3  # seconds a timing takes at least, by repetition
SLOW = 50e-3  # beyond it the first call is all the warming up there is
PAUSE = 0.1


class Timer:
    """Times methods with `threads` threads on as many cores, the first being `core`."""

    def __init__(self, threads: int, core: int = 0) -> None:
        cores = sorted(os.sched_getaffinity(0) | {core})
        chosen = {cores[(cores.index(core) + i) % len(cores)] for i in range(threads)}
        if len(chosen) < threads:
            raise ValueError(f"{threads} threads to time on {len(cores)} cores; use fewer")
        self.threads, self._cores, self._before = threads, chosen, os.sched_getaffinity(0)

    def __enter__(self) -> Timer:
        os.sched_setaffinity(0, self._cores)
        self._limits = threadpool_limits(self.threads)
        with contextlib.suppress(ImportError):
            import torch

            torch.set_num_threads(self.threads)
        return self

    def __exit__(self, *_: object) -> None:
        self._limits.restore_original_limits()
        os.sched_setaffinity(0, self._before)

    def seconds(self, run: Callable[[], Any], repeats: int = 1) -> float:
        clock = time.process_time_ns if self.threads == 1 else time.perf_counter_ns
        begin = clock()
        for _ in range(repeats):
            run()
        return (clock() - begin) / 1e9 / repeats

    def interleave(
        self,
        methods: dict[str, Method],
        x: NDArray[np.float32],
        rounds: int,
        rows: NDArray[np.float32] | None = None,
    ) -> dict[str, NDArray[np.float64]]:
        """Seconds (rounds,) of every method, once per round. With `rows` also `read` and `fma`,
        the bytes of them and the multiply-add operations that this machine does in a second, and
        `both`, the seconds it takes to read them and to multiply each of them with every probe."""
        repeats: dict[str, int] = {}
        seconds: dict[str, list[float]] = {name: [] for name in methods}
        calls = {name: functools.partial(method, x) for name, method in methods.items()}
        for name, call in calls.items():
            first = self.seconds(call)
            again = first if first > SLOW else self.seconds(call)
            repeats[name] = max(1, int(np.ceil(LEAST / max(again, 1e-6))))
        limit = ceilings() if rows is not None else None
        read, fma, both = [], [], []
        for _ in range(rounds):
            if limit is not None and rows is not None:
                reading = functools.partial(limit.read, rows, self.threads)
                multiplying = functools.partial(limit.multiply, self.threads)
                self._rest(reading)
                read.append(rows.nbytes / self.seconds(reading))
                fma.append(limit.operations * self.threads / self.seconds(multiplying))
                together = functools.partial(limit.score, rows, len(x), self.threads)
                both.append(self.seconds(together, max(1, int(LEAST * read[-1] / rows.nbytes))))
            for name, call in calls.items():
                self._rest(call)
                seconds[name].append(self.seconds(call, repeats[name]))
        found = {name: np.asarray(v) for name, v in seconds.items()}
        if read:
            found |= {"read": np.asarray(read), "fma": np.asarray(fma), "both": np.asarray(both)}
        return found

    def _rest(self, wake: Callable[[], Any]) -> None:
        """Lets other pools fall asleep and this one wake up; one thread has none."""
        if self.threads > 1:
            time.sleep(PAUSE)
            wake()


def ratio(theirs: NDArray[np.float64], ours: NDArray[np.float64]) -> float:
    """The median of per-round ratios; above 1 we are faster."""
    return float(np.median(theirs / ours))


class Ceilings:
    """Plain reading, register-only multiply-adds, and both at once, from bench/ceilings.c."""

    def __init__(self, library: Path) -> None:
        self._c = ctypes.CDLL(str(library))
        self._c.read_once.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self._c.read_once.restype = ctypes.c_float
        self._c.read_and_score.argtypes = [
            ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int
        ]  # fmt: skip
        self._c.read_and_score.restype = ctypes.c_float
        self._c.multiply_add.argtypes = [
            ctypes.c_size_t, ctypes.c_int, ctypes.POINTER(ctypes.c_float)
        ]  # fmt: skip
        self._c.multiply_add.restype = ctypes.c_double
        self.operations = self.multiply(1)

    def read(self, rows: NDArray[np.float32], threads: int) -> float:
        return float(self._c.read_once(rows.ctypes.data, rows.size, threads))

    def score(self, rows: NDArray[np.float32], probes: int, threads: int) -> float:
        """Reads rows and multiplies; for a number of probes of which there is no loop, by parts."""
        done, part = 0.0, 32
        while probes > 0:
            while part > probes:
                part //= 2
            done += float(self._c.read_and_score(rows.ctypes.data, rows.size, part, threads))
            probes -= part
        return done

    def multiply(self, threads: int) -> float:
        return float(self._c.multiply_add(400_000, threads, ctypes.byref(ctypes.c_float())))


@functools.cache
def ceilings() -> Ceilings | None:
    """Built for this processor's widest vectors; None where that is impossible."""
    compiler = shutil.which("cc")
    names = score.kernels()
    if compiler is None or "avx2" not in names:
        print("bench: no compiler or no AVX2, so no ceilings", file=sys.stderr)
        return None
    wide = any(k.startswith("avx512") for k in names)
    flags = ["-mavx512f"] if wide else ["-mavx2", "-mfma"]
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "ceilings.so"
        source = Path(__file__).with_name("ceilings.c")
        subprocess.run(
            [compiler, "-O3", *flags, "-shared", "-fPIC", "-pthread", source, "-o", library],
            check=True,
        )
        return Ceilings(library)
