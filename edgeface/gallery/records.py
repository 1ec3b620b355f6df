"""What a gallery stores, and the checks on what may go in."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from edgeface.errors import GalleryError
from edgeface.types import Array, Kind

NAME_LENGTH = 200
_STRANGER = re.compile(r"stranger-\d+", re.IGNORECASE)
# Direction overrides and isolates make one name look like another on a screen (Unicode TR 36).
_STEERING = {"Cc", "Cs", "Zl", "Zp"}
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Provenance(StrEnum):
    """Who vouches for a sample: a user, nobody (the gallery grew), or a clustering of pictures."""

    USER = "user"
    AUTOMATIC = "automatic"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """Faces of one person to be enrolled: the person's `name`, `embeddings` (n, d), and per face
    `qualities` in [0, 1] and `sources`."""

    name: str
    embeddings: Array
    qualities: Sequence[float | None]
    sources: Sequence[str | None]


@dataclass(frozen=True, slots=True)
class Person:
    """One person: `id` never changes or returns, `name` may change; `created` is Unix time in s."""

    id: int
    name: str
    kind: Kind
    n_samples: int
    created: float
    external_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def group(self) -> str | None:
        """What the person belongs to, such as family; None for no group."""
        group = self.metadata.get("group")
        return group if isinstance(group, str) else None


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One face of a person: `embedding` (d,) float32 unit, `quality` in [0, 1] or None, `source`
    where it came from, `crop` the encoded picture if one was kept, `created` Unix time in s."""

    id: int
    person_id: int
    embedding: Array
    quality: float | None
    provenance: Provenance
    source: str | None
    crop: bytes | None
    created: float


def check_name(name: str, *, reserved: bool = True) -> str:
    """`name` stripped and in Unicode normal form C, so that one spelling is one person.

    Any script is welcome. GalleryError when it is empty, longer than 200 characters, holds control
    characters or (unless `reserved` is False) has the form the gallery gives to strangers.
    """
    shown = repr(name if len(name) <= 40 else name[:37] + "...")
    clean = unicodedata.normalize("NFC", name).strip()
    if not clean:
        raise GalleryError(f"the name {shown} is empty: give the person a name")
    if len(clean) > NAME_LENGTH:
        raise GalleryError(
            f"the name {shown} has {len(clean)} characters: shorten it to {NAME_LENGTH} or fewer"
        )
    if printable(clean) != clean:
        raise GalleryError(f"the name {shown} holds control characters: remove them")
    if reserved and _STRANGER.fullmatch(clean):
        raise GalleryError(
            f"the name {shown} is kept for people the gallery finds by itself: choose another"
        )
    return clean


def is_numbered(name: str) -> bool:
    """Whether a name has the form that the gallery gives to strangers."""
    return _STRANGER.fullmatch(name) is not None


def printable(text: str) -> str:
    """`text` with what could steer a terminal or turn its direction shown as U+FFFD."""
    if text.isascii() and text.isprintable():  # most of a hundred thousand names
        return text
    return "".join(
        "\ufffd" if unicodedata.category(c) in _STEERING or c in _BIDI else c for c in text
    )


_UNIT = 2e-6  # how far the square of a length may be from one


def unit_rows(embeddings: ArrayLike, size: int) -> Array:
    """`embeddings` (n, size), or one (size,), as (n, size) float32 rows of length one.

    GalleryError on another shape, no rows, a value that is not finite or a row of zeros.
    """
    rows = np.array(embeddings, np.float32, ndmin=2)
    if rows.ndim != 2 or rows.shape[1] != size:
        raise GalleryError(
            f"embeddings of shape {np.shape(embeddings)} do not fit this gallery of size {size}: "
            "use the embedder it was made with"
        )
    if not len(rows):
        raise GalleryError("no embeddings: give at least one face")
    # Rows of length one stay as they are, bit for bit, so that what is read back compares equal. A
    # search asks this of one row, and a plain product is a third of the time of what is general.
    if len(rows) == 1 and abs(float(rows[0].dot(rows[0])) - 1.0) < _UNIT:
        return rows
    squares = np.einsum("ij,ij->i", rows, rows)
    if all(abs(square - 1.0) < _UNIT for square in squares.tolist()):
        return rows
    norms = np.sqrt(squares)[:, None]
    if not np.isfinite(norms).all() or norms.min() < 1e-6:
        raise GalleryError("an embedding is all zeros or not finite: leave that face out")
    off = np.abs(norms - 1.0) > _UNIT / 2
    return np.where(off, rows / norms, rows).astype(np.float32)


def unknown(name: str, known: Iterable[str], place: str) -> GalleryError:
    """The error for a name nobody has, with the closest names there are."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    return GalleryError(
        f"nobody is called {name!r} in {place}{hint or ': see `edgeface gallery list`'}"
    )
