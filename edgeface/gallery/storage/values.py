"""Between what a row holds and what it means: texts, embeddings and records, sealed and opened.

What cannot be right (a length other than one, a value that the key does not open) is left out with
a warning: one damaged row must neither name a stranger nor keep the others from being used.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Sequence
from functools import lru_cache
from math import isfinite
from typing import Any

import numpy as np

from edgeface.errors import GalleryError
from edgeface.gallery.records import Person, Provenance, Sample, printable
from edgeface.gallery.storage.cipher import Cipher
from edgeface.gallery.storage.database import Execute
from edgeface.types import Array, Kind

logger = logging.getLogger("edgeface")

# How far the square of a stored length may be from one. What is written is within 2e-6; a flipped
# bit that stays below this moves a cosine by less than it.
SOUND = 1e-4
UNREADABLE = (GalleryError, ValueError, TypeError, AttributeError, RecursionError, OverflowError)


def whole(value: Any) -> int:
    """A number of a row; -1, which is nobody's, where damage has made it something else."""
    return value if isinstance(value, int) else -1


def moment(value: Any) -> float:
    """A Unix time of a row; that of a damaged one is long ago."""
    time = value if isinstance(value, int | float) else 0.0
    return float(time) if isfinite(time) else 0.0


class Values:
    """Seals and opens values; `execute` runs one statement in the open transaction. `size` is that
    of the embeddings, 0 where none are read."""

    def __init__(self, execute: Execute, cipher: Cipher, place: str, size: int = 0) -> None:
        self.execute, self._cipher, self._place, self._size = execute, cipher, place, size
        self.entry: int | None = None  # of the journal, written last

    def seal_text(self, text: str, column: str, owner: str = "") -> str:
        if not self._cipher.secret:
            return text
        sealed = self._cipher.seal(text.encode(), column, owner)
        return sealed if isinstance(sealed, str) else base64.b64encode(sealed).decode()

    def open_text(self, value: str, column: str, owner: str = "") -> str:
        if not self._cipher.secret:
            return value
        return self._cipher.unseal(base64.b64decode(value), column, owner).decode()

    def next_id(self, table: str) -> int | None:
        """The id of the row to be written next where its values are bound to it, else None."""
        if not self._cipher.secret:
            return None
        rows = self.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,))
        return int(rows[0][0]) + 1 if rows else 1

    def _maybe(self, text: str | None, column: str, owner: str) -> str | None:
        return None if text is None else self.seal_text(text, column, owner)

    def _embeddings(
        self, rows: Sequence[tuple[int, int, Any]]
    ) -> tuple[list[int], Array, list[int]]:
        """Of (sample, person, sealed value): the places of the sound ones, their rows (n, d), and
        the ids of the samples that are damaged."""
        width, opened = 4 * self._size, []
        for sample, person, value in rows:
            try:
                row = self._cipher.unseal(value, "sample.embedding", f"{sample}/{person}")
            except UNREADABLE:
                row = b""
            opened.append(row if len(row) == width else b"")
        whole = [i for i, row in enumerate(opened) if row]
        found = np.frombuffer(b"".join(opened), "<f4").reshape(-1, self._size or 1)
        with np.errstate(all="ignore"):  # infinities are what is looked for
            squares = np.einsum("ij,ij->i", found, found, dtype=np.float64)
            sound = np.abs(squares - 1.0) < SOUND  # False for NaN
        places = [i for i, good in zip(whole, sound.tolist(), strict=True) if good]
        kept = set(places)
        damaged = [rows[i][0] for i in range(len(rows)) if i not in kept]
        for sample in damaged:
            warn(self._place, f"sample {sample}")
        return places, found if sound.all() else found[sound], damaged

    def _person(self, row: Sequence[Any]) -> Person | None:
        """The record of a row, None with a warning if it is damaged."""
        person_id, name, kind, created, external_id, metadata, n_samples = row
        owner = str(person_id)
        try:
            text = self.open_text(metadata, "person.metadata", owner) if metadata else "{}"
            return Person(
                id=int(person_id),
                name=self._name(name, owner),
                kind=Kind(kind),
                n_samples=int(n_samples),
                created=float(created),
                external_id=external_id
                and self.open_text(external_id, "person.external_id", owner),
                metadata=dict(json.loads(text)),
            )
        except UNREADABLE:
            warn(self._place, f"person {person_id}")
            return None

    def _name(self, value: Any, owner: str) -> str:
        """A name; one that is no text or could steer a terminal was not written by `check_name`."""
        return printable(self.open_text(value, "person.name", owner))

    def _samples(self, rows: Sequence[Sequence[Any]]) -> list[Sample]:
        """The records of the rows that are sound."""
        places, embeddings, _ = self._embeddings([(r[0], r[1], r[2]) for r in rows])
        found = (self._sample(rows[i], e) for i, e in zip(places, embeddings, strict=True))
        return [sample for sample in found if sample is not None]

    def _sample(self, row: Sequence[Any], embedding: Array) -> Sample | None:
        sample_id, person_id, _, quality, provenance, source, crop, created = row
        owner = f"{sample_id}/{person_id}"
        try:
            return Sample(
                id=int(sample_id),
                person_id=int(person_id),
                embedding=embedding,
                quality=None if quality is None else float(quality),
                provenance=Provenance(provenance),
                source=source and printable(self.open_text(source, "sample.source", owner)),
                crop=None if crop is None else self._cipher.unseal(crop, "sample.crop", owner),
                created=float(created),
            )
        except UNREADABLE:
            warn(self._place, f"sample {sample_id}")
            return None


@lru_cache(maxsize=10_000)
def warn(place: str, what: str) -> None:
    """Said once for each row."""
    logger.warning(
        "%s of %s is damaged and left out: restore a backup, or enrol again", what, place
    )
