"""Embeddings that take minutes are computed once and kept in a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def cached(file: Path | None, make: Callable[[], Floats]) -> Floats:
    """What `make` gives, kept in `file` (.npy) and read from it the next time; with None nothing is
    kept. Whatever the rows depend on belongs into the name of the file."""
    if file is not None and file.exists():
        return np.asarray(np.load(file), np.float32)
    found = make()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        with part.open("wb") as stream:
            np.save(stream, found)
        part.replace(file)
    return found
