"""Keeps an index in memory that follows the rows of a database.

Up to `EXACT_LIMIT` samples every search compares with every sample. Above, an hnswlib graph is
built in the background while a sketch answers; it is kept beside the gallery, so that the next
opening has it at once. That file is a cache: it may be deleted at any time. Without hnswlib, which
has to be compiled and so is an extra, every search goes on comparing with every sample.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgeface.gallery.index.hnsw import Hnsw
from edgeface.gallery.index.people import Index
from edgeface.gallery.index.scan import Exact, Ids, Sketch
from edgeface.gallery.storage.cipher import Cipher
from edgeface.gallery.storage.sqlite import Database, Execute
from edgeface.gallery.storage.tables import Tables
from edgeface.types import Array, Kind, Match

logger = logging.getLogger("edgeface")

EXACT_LIMIT = 5_000  # samples; where a graph begins to be faster: `python -m bench gallery`
CHUNK = 20_000  # samples read at once
BUILD_CHUNK = 1_000  # samples added to a graph between looks at whether to stop
SAVE_AFTER = 1_000  # changes that are quicker to repeat than the graph to write
HAVE_GRAPH = importlib.util.find_spec("hnswlib") is not None
SPOT_CHECKS = 32  # vectors of a saved graph compared with the rows before it is trusted


class Mirror:
    """See `Finder`. `cache` is where the graph is kept, None to keep it nowhere."""

    def __init__(
        self, database: Database, cipher: Cipher, size: int, *, cache: Path | None
    ) -> None:
        self._db, self._cipher, self._size, self._cache = database, cipher, size, cache
        self._index = Index(Exact(size))
        self._seen: object = None
        self._revision = -1
        self._refreshing = threading.RLock()
        self._builder: threading.Thread | None = None
        self._stop = threading.Event()
        self._unsaved = 0  # changes that the saved graph does not have
        self._recall_graph()
        self.refresh()

    def __len__(self) -> int:
        self._catch_up()
        return len(self._index)

    def search(self, probes: Array, k: int, kind: Kind | None = None) -> list[list[Match]]:
        """See `Finder.search`."""
        self._catch_up()
        return self._index.search(probes, k, kind)

    def settle(self) -> None:
        """See `Finder.settle`."""
        if self._builder is not None:
            self._builder.join()

    def scrub(self) -> None:
        """See `Finder.scrub`."""
        if self._cache is not None:
            self._cache.unlink(missing_ok=True)
        self._unsaved = SAVE_AFTER

    def close(self) -> None:
        """See `Finder.close`: a graph that has changed is kept for the next opening."""
        self._stop.set()
        self.settle()
        self._save()

    def refresh(self) -> None:
        """Bring the index to the newest revision. Rows that change meanwhile get a newer revision
        and come with the next call, so short reads suffice and nobody is kept from writing."""
        with self._refreshing:
            stamp, since = self._db.stamp(), self._revision
            with self._db.snapshot() as execute:
                tables = self._tables(execute)
                until = tables.revision()
                people = tables.identities(since) if until != since else {}
                dropped = tables.dropped(since, self._index.ids()) if until != since else []
            if until != since:
                self._index.identify(people)
                self._index.remove(np.array(dropped, np.int64))
                self._unsaved += len(dropped)
                for ids, owners, rows in self._changed(since, until, CHUNK):
                    self._make_room(len(ids))
                    self._index.add(ids, owners, rows)
                    self._unsaved += len(ids)
            self._revision, self._seen = until, stamp

    def _catch_up(self) -> None:
        if self._db.stamp() != self._seen:
            self.refresh()

    def _tables(self, execute: Execute) -> Tables:
        return Tables(execute, self._cipher, self._db.place)

    def _changed(self, since: int, until: int, chunk: int) -> Iterator[tuple[Ids, Ids, Array]]:
        """Samples added or moved in (since, until], at most `chunk` at a time."""
        after, full = (since, 2**62), True
        while full:
            with self._db.snapshot() as execute:
                rows = self._tables(execute).changed_samples(after, until, chunk)
            if rows:
                ids = np.array([r[1] for r in rows], np.int64)
                owners = np.array([r[2] for r in rows], np.int64)
                yield ids, owners, np.stack([r[3] for r in rows])
                after = rows[-1][:2]
            full = len(rows) == chunk

    def _fetch(self, ids: Ids) -> tuple[Ids, Array]:
        with self._db.snapshot() as execute:
            found = self._tables(execute).embeddings(ids.tolist())
        if not found:
            return np.empty(0, np.int64), np.empty((0, self._size), np.float32)
        return np.array([i for i, _ in found], np.int64), np.stack([row for _, row in found])

    # From the exact scan to the graph

    def _make_room(self, n: int) -> None:
        """Let a sketch take over when `n` more samples are too many to compare with them all."""
        exact = self._index.searcher
        if isinstance(exact, Exact) and len(exact) + n > EXACT_LIMIT:
            if not HAVE_GRAPH:
                if len(exact) <= EXACT_LIMIT:  # said once, when the limit is crossed
                    logger.info("search is exact; 'edgeface[hnsw]' makes large galleries faster")
                return
            sketch = Sketch(self._size, self._fetch)
            if len(exact):
                sketch.add(*exact.contents())
            self._index.swap(sketch)
            self._builder = threading.Thread(target=self._build, name="edgeface-index", daemon=True)
            self._builder.start()

    def _build(self) -> None:
        """Build the graph of a moment, bring it up to date, and let it take over."""
        with self._db.snapshot() as execute:
            tables = self._tables(execute)
            begun, count = tables.revision(), tables.count_samples()
        graph = Hnsw.empty(self._size, count * 5 // 4)
        for ids, _, rows in self._changed(-1, begun, BUILD_CHUNK):
            graph.add(ids, rows)
            if self._stop.is_set():
                return
        with self._refreshing:
            with self._db.snapshot() as execute:
                dropped = self._tables(execute).dropped(begun, graph.ids())
            gone = [i for i in dropped if i in graph and i not in self._index.searcher]
            graph.remove(np.array(gone, np.int64))
            for ids, _, rows in self._changed(begun, self._revision, BUILD_CHUNK):
                new = np.array(
                    [i not in graph and i in self._index.searcher for i in ids.tolist()], bool
                )
                if new.any():
                    graph.add(ids[new], rows[new])
            # Rows moved after `begun` and deleted since were never met above.
            self._index.swap(graph)
        self._save()

    # The graph on the disk

    def _recall_graph(self) -> None:
        """Take the saved graph if there is one that fits the rows."""
        if self._cache is None or not HAVE_GRAPH or not self._cache.exists():
            return
        with self._db.snapshot() as execute:
            tables = self._tables(execute)
            until, owners, people = tables.revision(), tables.owners(), tables.identities(-1)
        if len(owners) <= EXACT_LIMIT:
            return
        try:
            graph = Hnsw.load(self._cache, self._size, owners)
        except RuntimeError:
            return  # cut short: it will be built anew
        if not self._fits(graph, owners):
            return
        self._index.identify(people)
        self._index.swap(graph)
        missing = np.array([i for i in owners if i not in graph], np.int64)
        for start in range(0, len(missing), CHUNK):
            found, rows = self._fetch(missing[start : start + CHUNK])
            graph.add(found, rows)
        self._index.own({i: person for i, person in owners.items() if i in graph})
        self._revision, self._unsaved = until, len(missing)

    def _fits(self, graph: Hnsw, owners: dict[int, int]) -> bool:
        """Whether some vectors of the graph, the newest among them, are those of the rows."""
        held = [i for i in owners if i in graph]
        if not held:
            return False
        rng = np.random.default_rng(0)
        some = np.unique(np.concatenate([rng.choice(held, SPOT_CHECKS), held[-SPOT_CHECKS:]]))
        found, rows = self._fetch(some)
        return np.array_equal(graph.rows(found), rows)

    def _save(self) -> None:
        """Keep the graph for the next opening. The transaction keeps others from forgetting
        somebody whom the file would still hold."""
        graph = self._index.searcher
        if self._cache is None or self._unsaved < SAVE_AFTER or not isinstance(graph, Hnsw):
            return
        with self._db.transaction(), self._refreshing:
            self.refresh()
            try:
                graph.save(self._cache)
            except (OSError, RuntimeError) as error:  # the next opening builds it again
                logger.warning("the index %s could not be kept: %s", self._cache, error)
            self._unsaved = 0
