"""Keeps an index in memory that follows the rows of a database.

Up to `EXACT_LIMIT` samples every search compares with every sample. Above, a graph (`families`) is
built in the background while a sketch answers; it is kept beside the gallery (`cache`), so that the
next opening has it at once. Without a library for it, which is an extra as it has to be compiled,
every search goes on comparing with every sample.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import numpy as np

from edgeface.errors import EdgefaceError
from edgeface.gallery.index.cache import IndexFile
from edgeface.gallery.index.families import Family, Graph, best
from edgeface.gallery.index.numbers import Ids, Numbers
from edgeface.gallery.index.people import Index
from edgeface.gallery.index.scan import Exact, Searcher, Sketch
from edgeface.gallery.storage.cipher import Cipher
from edgeface.gallery.storage.contract import agree_on_cipher
from edgeface.gallery.storage.database import Database, Execute
from edgeface.gallery.storage.tables import Changed, Tables
from edgeface.types import Array, Kind, Match

logger = logging.getLogger("edgeface")

EXACT_LIMIT = 10_000  # samples; where a graph begins to be faster: `python -m bench gallery`
CHUNK = 20_000  # samples read at once
BUILD_CHUNK = 1_000  # samples added to a graph between looks at whether to stop
SAVE_AFTER = 1_000  # changes that are quicker to repeat than the graph to write


class Mirror:
    """See `Finder`. The graph is kept in `file`, unless the gallery is encrypted."""

    def __init__(self, database: Database, cipher: Cipher, size: int, file: IndexFile) -> None:
        self._db, self._cipher, self._size, self._file = database, cipher, size, file
        self._family = best()
        self._refreshing = threading.RLock()
        self._builder: threading.Thread | None = None
        self._begin()
        try:
            self._recall_graph()
            self.refresh()
        except BaseException:
            self._stop.set()
            self.settle()
            raise

    def _begin(self) -> None:
        """Know nothing of any row."""
        self._index = Index(Exact(self._size))
        self._graph: Graph | None = None
        self._seen: object = None
        self._revision = -1
        self._replaced = self._db.replaced
        self._stop = threading.Event()  # of what is being built for this index
        self._unsaved = 0  # changes that the saved graph does not have

    def __len__(self) -> int:
        self._catch_up()
        return len(self._index)

    def search(self, probes: Array, k: int, kind: Kind | None = None) -> list[list[Match]]:
        """See `Finder.search`."""
        self._catch_up()
        return self._index.search(probes, k, kind)

    def settle(self) -> None:
        """See `Finder.settle`."""
        builder = self._builder
        if builder is not None:
            builder.join()

    def scrub(self) -> None:
        """See `Finder.scrub`."""
        self._unsaved = SAVE_AFTER
        with self._db.snapshot() as execute:
            self._file.erase(self._tables(execute))

    def close(self) -> None:
        """See `Finder.close`: a graph that has changed is kept for the next opening."""
        self._stop.set()
        self.settle()
        self._save()

    def refresh(self) -> None:
        """Bring the index to the newest revision. Rows that change meanwhile get a newer revision
        and come with the next call, so short reads suffice and nobody is kept from writing."""
        with self._refreshing:
            stamp = self._db.stamp()
            if self._replaced != self._db.replaced:
                self._stop.set()
                self._begin()
            since = self._revision
            with self._db.snapshot() as execute:
                tables = self._tables(execute)
                until = tables.revision()
                if until != since:
                    agree_on_cipher(tables, self._cipher, self._db.place)
                people = tables.identities(since) if until != since else {}
                dropped = tables.dropped(since, self._index.ids()) if until != since else []
            if until != since:
                self._index.identify(people)
                self._index.remove(np.array(dropped, np.int64))
                self._unsaved += len(dropped)
                for found in self._changed(since, until, CHUNK):
                    self._make_room(len(found.ids))
                    self._index.add(found.ids, found.owners, found.embeddings)
                    self._unsaved += len(found.ids)
            self._revision, self._seen = until, stamp

    def _catch_up(self) -> None:
        if self._db.stamp() != self._seen:
            self.refresh()

    def _tables(self, execute: Execute) -> Tables:
        return Tables(execute, self._cipher, self._db.place, self._size)

    def _changed(self, since: int, until: int, chunk: int) -> Iterator[Changed]:
        """Samples added or moved in (since, until], at most `chunk` at a time."""
        after, more = (since, 2**62), True
        while more:
            with self._db.snapshot() as execute:
                found = self._tables(execute).changed_samples(after, until, chunk)
            if len(found.ids):
                yield found
            after, more = found.last or after, found.more

    def _fetch(self, ids: Ids) -> tuple[Ids, Array]:
        with self._db.snapshot() as execute:
            return self._tables(execute).embeddings(ids.tolist())

    # From the exact scan to the graph

    def _make_room(self, n: int) -> None:
        """Let a sketch take over when `n` more samples are too many to compare with them all."""
        exact = self._index.searcher
        if isinstance(exact, Exact) and len(exact) + n > EXACT_LIMIT:
            if self._family is None:
                if len(exact) <= EXACT_LIMIT:  # said once, when the limit is crossed
                    logger.info("search is exact; 'edgeface[hnsw]' makes large galleries faster")
                return
            sketch = Sketch(self._size, self._fetch)
            if len(exact):
                sketch.add(*exact.contents())
            self._index.swap(sketch)
            self._builder = threading.Thread(
                target=self._build,
                args=(self._family, self._index, self._stop),
                name="edgeface-index",
                daemon=True,
            )
            self._builder.start()

    def _build(self, family: Family, index: Index, stop: threading.Event) -> None:
        """Build the graph of a moment, bring it up to date, and let it take over."""
        try:
            self._build_graph(family, index, stop)
        except (EdgefaceError, RuntimeError, MemoryError) as error:
            if not stop.is_set():
                logger.warning("the index of %s could not be built: %s", self._db.place, error)

    def _build_graph(self, family: Family, index: Index, stop: threading.Event) -> None:
        with self._db.snapshot() as execute:
            tables = self._tables(execute)
            begun, count = tables.revision(), tables.count_samples()
        graph = family.empty(self._size, count * 5 // 4)
        for found in self._changed(-1, begun, BUILD_CHUNK):
            graph.add(found.ids, found.embeddings)
            if stop.is_set():
                return
        caught = self._catch_up_graph(graph, begun)
        with self._refreshing:
            if self._index is not index:
                return  # another gallery has taken the place of this one
            with self._db.snapshot() as execute:
                dropped = self._tables(execute).dropped(begun, graph.ids())
            gone = [i for i in dropped if i in graph and i not in index.searcher]
            graph.remove(np.array(gone, np.int64))
            for found in self._changed(caught, self._revision, BUILD_CHUNK):
                _add_new(graph, found, index.searcher)
            # Rows moved after `begun` and deleted since were never met above.
            index.swap(graph)
            self._graph = graph
        self._save()

    def _catch_up_graph(self, graph: Graph, since: int) -> int:
        """Add what came after revision `since` until little is left, and say until when, so that
        searches, which see a new state only together with all others, hardly wait for the rest."""
        while True:
            with self._db.snapshot() as execute:
                until = self._tables(execute).revision()
            added = sum(
                _add_new(graph, found) for found in self._changed(since, until, BUILD_CHUNK)
            )
            since = until
            if added < BUILD_CHUNK // 10 or self._stop.is_set():
                return since

    # The graph on the disk

    def _recall_graph(self) -> None:
        """Take the saved graph if there is one that fits the rows."""
        family = self._family
        if self._cipher.secret or family is None:
            return
        with self._db.snapshot() as execute:
            tables = self._tables(execute)
            if tables.count_samples() <= EXACT_LIMIT:
                return
            file = self._file.read(tables, family.name)
            until, (ids, owners), people = (
                tables.revision(),
                tables.owners(),
                tables.identities(-1),
            )
        path = file.result()
        if path is None:
            return
        try:
            graph = family.load(path, self._size, ids)
        except (EdgefaceError, RuntimeError, MemoryError):
            return  # it will be built anew
        self._index.identify(people)
        self._index.swap(graph)
        missing = np.setdiff1d(ids, graph.ids()) if len(graph) < len(ids) else ids[:0]
        for start in range(0, len(missing), CHUNK):
            found, rows = self._fetch(missing[start : start + CHUNK])
            graph.add(found, rows)
        if len(graph) < len(ids):  # some are damaged
            sound = np.isin(ids, graph.ids())
            ids, owners = ids[sound], owners[sound]
        self._index.own(Numbers.of(ids, owners))
        self._graph, self._revision, self._unsaved = graph, until, len(missing)

    def _save(self) -> None:
        """Keep the graph for the next opening. The transaction keeps others from forgetting
        somebody whom the file would still hold; as nothing changes meanwhile, searches need not
        wait until it is written."""
        graph, family = self._graph, self._family
        if graph is None or family is None or self._unsaved < SAVE_AFTER or self._cipher.secret:
            return
        try:
            with self._db.transaction() as execute:
                self.refresh()
                if graph is self._graph:
                    self._file.write(self._tables(execute), family.name, graph.save)
                    self._unsaved = 0
        except (EdgefaceError, RuntimeError) as error:  # the next opening builds it again
            logger.warning("the index of %s could not be kept: %s", self._db.place, error)


def _add_new(graph: Graph, found: Changed, among: Searcher | None = None) -> int:
    """Add the samples that a graph has not, of those `among` others; how many."""
    new = np.array(
        [i not in graph and (among is None or i in among) for i in found.ids.tolist()], bool
    )
    if new.any():
        graph.add(found.ids[new], found.embeddings[new])
    return int(new.sum())
