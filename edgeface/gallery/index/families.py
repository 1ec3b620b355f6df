"""The libraries that can index a large gallery: one file and one row here for each."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgeface.gallery.index.hnsw import Hnsw
from edgeface.gallery.index.numbers import Ids
from edgeface.gallery.index.scan import Searcher
from edgeface.types import Array


class Graph(Searcher, Protocol):
    """A `Searcher` that can be kept in a file. An id stands for one vector for ever."""

    def ids(self) -> Ids:
        """The samples it holds."""
        ...

    def contents(self) -> tuple[Ids, Array]:
        """Ids (n,) and rows (n, d)."""
        ...

    def save(self, path: Path) -> None:
        """Write to `path`, in place."""
        ...


@dataclass(frozen=True, slots=True)
class Family:
    """A library: its `name` in a gallery's settings, the `package` it needs, how an index is made
    (`empty`: embedding size, room for so many samples) and read (`load`: path, embedding size, the
    samples wanted; GalleryError or RuntimeError when it cannot be)."""

    name: str
    package: str
    empty: Callable[[int, int], Graph]
    load: Callable[[Path, int, Ids], Graph]


FAMILIES: list[Family] = [Family("hnsw", "hnswlib", Hnsw.empty, Hnsw.load)]


def best() -> Family | None:
    """The first whose package is installed."""
    return next((f for f in FAMILIES if importlib.util.find_spec(f.package) is not None), None)
