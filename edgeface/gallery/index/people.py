"""Best sample per person over whatever finds samples, safe to search while it changes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from edgeface.gallery.index.numbers import Ids, Numbers
from edgeface.gallery.index.scan import Searcher
from edgeface.types import Array, Kind, Match


class ReadWriteLock:
    """Many readers or one writer; a waiting writer goes first."""

    def __init__(self) -> None:
        # Readers come all the time: they take the lock itself, which is done in C, and ask for the
        # condition around it only when somebody has to wait.
        self._mutex = threading.Lock()
        self._condition = threading.Condition(self._mutex)
        self._readers = self._waiting = 0
        self._writing = False

    def __enter__(self) -> None:
        """Hold off writers for the block."""
        with self._mutex:
            while self._writing or self._waiting:
                self._condition.wait()
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._mutex:
            self._readers -= 1
            if self._waiting and not self._readers:
                self._condition.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold off everybody for the block."""
        with self._condition:
            self._waiting += 1
            try:
                while self._writing or self._readers:
                    self._condition.wait()
            finally:
                self._waiting -= 1
            self._writing = True
        try:
            yield
        finally:
            with self._condition:
                self._writing = False
                self._condition.notify_all()


class Index:
    """Samples, whose they are and what those are called."""

    def __init__(self, searcher: Searcher) -> None:
        self.searcher = searcher
        self._lock = ReadWriteLock()
        self._owner = Numbers()
        self._people: dict[int, tuple[str, Kind]] = {}

    def __len__(self) -> int:
        return len(self.searcher)

    def ids(self) -> Ids:
        """The samples it holds."""
        with self._lock:
            return self._owner.keys()

    def swap(self, searcher: Searcher) -> None:
        """Search with another searcher that holds the same samples from now on."""
        with self._lock.writing():
            self.searcher = searcher

    def identify(self, people: dict[int, tuple[str, Kind]]) -> None:
        """Set name and kind of people by id; to be called before their samples are added."""
        with self._lock.writing():
            self._people.update(people)

    def own(self, owners: Numbers) -> None:
        """Set the owners of all the samples, which the searcher holds already."""
        with self._lock.writing():
            self._owner = owners

    def remove(self, ids: Ids) -> None:
        """Drop samples; those it does not hold are ignored."""
        gone = np.array([i for i in ids.tolist() if i in self._owner], np.int64)
        if len(gone):
            with self._lock.writing():
                self.searcher.remove(gone)
                self._owner.drop(gone)

    def add(self, ids: Ids, owners: Ids, rows: Array) -> None:
        """Add samples (n,) of people `owners` (n,) with unit `rows` (n, d); samples it already
        holds only change their owner, as embeddings never change."""
        with self._lock.writing():
            new = np.array([i not in self.searcher for i in ids.tolist()], bool)
            if new.any():
                self.searcher.add(ids[new], rows[new])
            self._owner.put(ids, owners)

    def search(self, probes: Array, k: int, kind: Kind | None = None) -> list[list[Match]]:
        """For each probe (q, d) the `k` nearest people (of one kind), each by its most similar
        sample."""
        with self._lock:
            held = len(self.searcher)
            if not held:
                return [[] for _ in probes]
            take = min(4 * k, held)
            found = self._found(probes, take, k, kind)
            # A person with many samples may fill the answer: look further for these probes.
            while take < held and (short := [i for i, row in enumerate(found) if len(row) < k]):
                take = min(4 * take, held)
                for i, row in zip(short, self._found(probes[short], take, k, kind), strict=True):
                    found[i] = row
            return found

    def _found(self, probes: Array, take: int, k: int, kind: Kind | None) -> list[list[Match]]:
        """The people among the `take` samples nearest to each probe, at most `k`."""
        ids, sims = self.searcher.search(probes, take)
        return [
            self._nearest(self._owner[some], row, k, kind)
            for some, row in zip(ids, sims.tolist(), strict=True)
        ]

    def _nearest(
        self, owners: list[int], sims: list[float], k: int, kind: Kind | None
    ) -> list[Match]:
        best: dict[int, Match] = {}
        people = self._people
        for person, similarity in zip(owners, sims, strict=True):
            if person in best:
                continue
            known = people.get(person)
            # Somebody whose row is damaged has no name here, and is never the answer.
            if known is not None and (kind is None or known[1] is kind):
                best[person] = Match(person, known[0], similarity, known[1])
                if len(best) == k:
                    break
        return list(best.values())
