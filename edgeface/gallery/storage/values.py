"""Between what a row holds and what it means: texts, embeddings and records, sealed and opened."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeface.gallery.records import Person, Provenance, Sample
from edgeface.gallery.storage.cipher import Cipher
from edgeface.gallery.storage.sqlite import Execute
from edgeface.types import Array, Kind


class Values:
    """Seals and opens values; `execute` runs one statement in the open transaction."""

    def __init__(self, execute: Execute, cipher: Cipher, place: str) -> None:
        self.execute, self._cipher, self._place = execute, cipher, place

    def seal_text(self, text: str, column: str) -> str:
        if not self._cipher.secret:
            return text
        sealed = self._cipher.seal(text.encode(), column)
        return sealed if isinstance(sealed, str) else base64.b64encode(sealed).decode()

    def open_text(self, value: str, column: str) -> str:
        if not self._cipher.secret:
            return value
        return self._cipher.unseal(base64.b64decode(value), column).decode()

    def _maybe(self, text: str | None, column: str) -> str | None:
        return None if text is None else self.seal_text(text, column)

    def _embedding(self, value: Any) -> Array:
        return np.frombuffer(self._cipher.unseal(value, "sample.embedding"), "<f4")

    def _person(self, row: Sequence[Any]) -> Person:
        person_id, name, kind, created, external_id, metadata, n_samples = row
        return Person(
            id=int(person_id),
            name=self.open_text(name, "person.name"),
            kind=Kind(kind),
            n_samples=int(n_samples),
            created=float(created),
            external_id=external_id and self.open_text(external_id, "person.external_id"),
            metadata=json.loads(self.open_text(metadata, "person.metadata")) if metadata else {},
        )

    def _sample(self, row: Sequence[Any]) -> Sample:
        sample_id, person_id, embedding, quality, provenance, source, crop, created = row
        return Sample(
            id=int(sample_id),
            person_id=int(person_id),
            embedding=self._embedding(embedding),
            quality=quality,
            provenance=Provenance(provenance),
            source=source and self.open_text(source, "sample.source"),
            crop=None if crop is None else self._cipher.unseal(crop, "sample.crop"),
            created=float(created),
        )
