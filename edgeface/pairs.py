"""Lists of pairs of pictures, compared and judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.describe import Describer
from edgeface.enrolment import one_face
from edgeface.errors import DataError, EdgefaceError, ImageError
from edgeface.types import Array

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures, and whether they are said to show one person."""

    first: Path
    second: Path
    same: bool


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """The `pairs` whose pictures both show a face, and their `similarity` (n,), raw cosines."""

    pairs: tuple[Pair, ...]
    similarity: Array

    @property
    def same(self) -> NDArray[np.bool_]:
        """What is said of the pairs (n,)."""
        return np.array([pair.same for pair in self.pairs], bool)


def read_pairs(file: Path, root: Path) -> list[Pair]:
    """A list of `PICTURE PICTURE SAME` a line, SAME 1 or 0, between blanks or, where names have
    blanks, tabs; pictures are below `root`.

    Raises:
        DataError: it cannot be read, has no lines, or a line is none of these.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError(f"{file}: expected a text file of pairs: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        words = line.split("\t") if "\t" in line else line.split()
        if not words:
            continue
        if len(words) != 3 or words[2].strip() not in {"0", "1"}:
            raise DataError(
                f"{file}, line {number}: expected two pictures and 1 (one person) or 0, got "
                f"{line.strip()!r}"
            )
        first, second = (root / word.strip() for word in words[:2])
        found.append(Pair(first, second, words[2].strip() == "1"))
    if not found:
        raise DataError(f"{file}: no pairs")
    return found


def compare_pairs(
    describer: Describer,
    pairs: Sequence[Pair],
    *,
    on_bad: Callable[[EdgefaceError], None],
    progress: Progress | None = None,
) -> Compared:
    """The similarity of the largest faces of every pair; every picture is looked at once. Pairs of
    a picture that cannot be read or shows no face are left out, and `on_bad` is told of it."""
    faces: dict[Path, Array | None] = {}
    pictures = list(dict.fromkeys(p for pair in pairs for p in (pair.first, pair.second)))
    for done, picture in enumerate(pictures, 1):
        try:
            faces[picture] = one_face(describer, picture, "largest").embedding
        except ImageError as error:
            faces[picture] = None
            on_bad(error)
        if progress is not None:
            progress(done, len(pictures))
    kept, similarity = [], []
    for pair in pairs:
        a, b = faces[pair.first], faces[pair.second]
        if a is not None and b is not None:
            kept.append(pair)
            similarity.append(float(a @ b))
    return Compared(tuple(kept), np.array(similarity, np.float32))
