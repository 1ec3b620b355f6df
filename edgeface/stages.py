"""How long the stages of a frame take, gathered as histograms."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

# Seconds up to which a bucket counts. One inference of the smallest network takes about 1 ms, a
# frame at 15 a second has 67 ms, and what takes more than a second has stopped the camera.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Stage(StrEnum):
    """What is done with a frame."""

    DETECTION = "detection"  # faces are looked for, where something moves
    EMBEDDING = "embedding"  # faces that are worth it are embedded
    SEARCH = "search"  # a track's template is compared with the gallery


@dataclass(frozen=True, slots=True)
class StageTime:
    """The times of one stage: how many were at most each of `BOUNDS` and, last, more than those,
    each counted once; and their sum in seconds."""

    stage: Stage
    counts: tuple[int, ...]
    total: float


class StageTimes:
    """Counts the times of stages. For several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = {stage: [0] * (len(BOUNDS) + 1) for stage in Stage}
        self._totals = dict.fromkeys(Stage, 0.0)

    @contextmanager
    def __call__(self, stage: Stage) -> Generator[None]:
        """Count how long the block takes; one that fails counts not."""
        begin = time.perf_counter()
        yield
        self.note(stage, time.perf_counter() - begin)

    def note(self, stage: Stage, seconds: float) -> None:
        """Count one time."""
        with self._lock:
            self._counts[stage][bisect_left(BOUNDS, seconds)] += 1
            self._totals[stage] += seconds

    def read(self) -> list[StageTime]:
        """The times of every stage until now."""
        with self._lock:
            return [StageTime(s, tuple(self._counts[s]), self._totals[s]) for s in Stage]
