"""What the store of sightings gives out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from edgeface.errors import ArgumentError
from edgeface.types import Array, Kind, timestamp


@dataclass(frozen=True, slots=True, eq=False)
class Appearance:
    """One stay of a face before a `camera`: the track `track` of a `run`, from `first` to `last`
    (UTC). `person_id`, `name` and `kind` are who it is by what the gallery says now, None for
    nobody; `status`, `similarity`, `threshold` and its `origin` what was decided then. `template`
    (d,) float32 unit of `n_faces` faces with the summed quality `weight`, None if no face was good
    enough. `quality` is that of the crop, NaN if there is none."""

    id: int
    run: str
    track: int
    camera: str
    first: datetime
    last: datetime
    person_id: int | None
    name: str | None
    kind: Kind | None
    status: str
    similarity: float | None
    threshold: float
    origin: str
    template: Array | None
    weight: float
    n_faces: int
    quality: float
    has_crop: bool

    def to_dict(self) -> dict[str, Any]:
        """The appearance as plain JSON types, without its template; times are ISO 8601."""
        return {
            "id": self.id,
            "run": self.run,
            "track": self.track,
            "camera": self.camera,
            "first": timestamp(self.first),
            "last": timestamp(self.last),
            "person_id": self.person_id,
            "name": self.name,
            "kind": None if self.kind is None else str(self.kind),
            "status": self.status,
            "similarity": self.similarity,
            "threshold": self.threshold,
            "threshold_origin": self.origin,
            "faces": self.n_faces,
            "quality": self.quality if self.quality == self.quality else None,
            "image": self.has_crop,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """Some rows, newest first, and the `cursor` that asks for those after them; None at the end."""

    rows: list[Appearance]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Expiry:
    """How many days what kind of thing is kept; None for ever. `per_person` bounds the crops of
    one person, best first, and `nobodies` those of people without a name or number."""

    strangers: float | None = 7.0  # appearances of strangers and of nobody; the strangers as well
    known: float | None = 30.0  # appearances of known and ignored people
    crops: float | None = 3.0  # pictures, of anybody
    events: float | None = 30.0  # the log
    per_person: int = 50
    nobodies: int = 5000

    def __post_init__(self) -> None:
        days = (self.strangers, self.known, self.crops, self.events)
        if (
            any(d is not None and not d > 0 for d in days)
            or min(self.per_person, self.nobodies) < 0
        ):
            raise ArgumentError(f"{self}: days are above 0 or None, numbers of crops 0 or more")
