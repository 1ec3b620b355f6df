"""Appearances before several cameras become visits, and the evidence of a visit adds up.

Somebody who walks past three cameras leaves three tracks, none of which may be enough for a name.
Templates are sums, so that of the visit goes on where the camera before stopped, whatever the
order of the cameras.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeface.gallery import Gallery, Kind
from edgeface.types import Array, Match

GAP = timedelta(minutes=10)  # the longest break within a visit
NEAREST = 3  # people compared; the second sets the margin


class Row(Protocol):
    """What a visit is made of: an `Appearance`, or a track that is there."""

    @property
    def id(self) -> Any:
        """What no other has, to be ordered."""

    @property
    def camera(self) -> str: ...
    @property
    def first(self) -> datetime: ...
    @property
    def last(self) -> datetime: ...
    @property
    def person_id(self) -> int | None: ...
    @property
    def template(self) -> Array | None: ...
    @property
    def weight(self) -> float: ...


R = TypeVar("R", bound=Row)


class Visit(Generic[R]):
    """Appearances of one person, before any camera, without a long break, as they began."""

    def __init__(self, row: R) -> None:
        self.rows: list[R] = []
        self.first, self.last = row.first, row.last
        self.person_id: int | None = None
        self.template: Array | None = None
        self._total: NDArray[np.float64] | None = None
        self.add(row)

    def add(self, row: R) -> None:
        """Take one more appearance. `template` (d,) float32 unit is then what all faces say
        together, None while none was good enough; `person_id` who it is, None for nobody."""
        self.rows.append(row)
        self.first, self.last = min(self.first, row.first), max(self.last, row.last)
        if self.person_id is None:
            self.person_id = row.person_id
        if row.template is not None:
            self._total = summed(self._total, row.template, row.weight)
            self.template = unit(self._total)

    @property
    def templates(self) -> Array:
        """What each appearance with a face that was good enough says (t, d), t may be 0."""
        rows = [row.template for row in self.rows if row.template is not None]
        return np.stack(rows) if rows else np.empty((0, 0), np.float32)

    def similarity(self, row: Row) -> float | None:
        """The cosine of an appearance to the visit, 1 for the same person; None if it cannot belong
        to it: it is of another person, too late, or somebody is before that camera already."""
        if row.first - self.last > GAP or any(
            row.camera == other.camera and row.first <= other.last and row.last >= other.first
            for other in self.rows
        ):
            return None
        if row.person_id is not None and self.person_id is not None:
            return 1.0 if row.person_id == self.person_id else None
        if row.template is None or self.template is None:
            return None
        return float(row.template @ self.template)


def visits_of(rows: Iterable[R], same: float) -> list[Visit[R]]:
    """The visits that appearances make up, newest first. What is of nobody, or what nobody's visit
    gets, joins the visit that resembles it most, from the cosine `same` on."""
    done: list[Visit[R]] = []
    lasting: list[Visit[R]] = []
    for row in sorted(rows, key=lambda r: (r.first, r.id)):
        done += [v for v in lasting if not _lasts(v, row.first)]
        lasting = [v for v in lasting if _lasts(v, row.first)]
        likely = [(s, v) for v in lasting if (s := v.similarity(row)) is not None and s >= same]
        if likely:
            max(likely, key=lambda pair: pair[0])[1].add(row)
        else:
            lasting.append(Visit(row))
    return sorted([*done, *lasting], key=lambda v: v.last, reverse=True)


def summed(
    total: NDArray[np.float64] | None, template: Array, weight: float
) -> NDArray[np.float64]:
    """A sum of templates with one more of a `weight`; None is the sum of none."""
    part = template.astype(np.float64) * weight
    return part if total is None else total + part


def unit(total: NDArray[np.float64]) -> Array | None:
    """A sum at length 1, None where nothing had a say."""
    length = float(np.linalg.norm(total))
    return None if length < 1e-12 else (total / length).astype(np.float32)


def fused(total: Array, tracks: Array, people: Array) -> Array:
    """How alike a visit is to each of `people` (n, d) unit rows: the mean of what all its faces say
    together, the cosine of `total` (d,), and of what the best of its `tracks` (t, d) says. (n,).

    One good view may say more than a sum that poor views dilute, and the sum more than any view; a
    stranger seldom has both by chance. Strangers reach a threshold by it as often as by one track
    (`python -m bench service --part visits`), so thresholds keep their meaning.
    """
    return np.asarray((people @ total + (people @ tracks.T).max(axis=1)) / 2, np.float32)


def near(gallery: Gallery, total: Array, tracks: Array) -> list[Match]:
    """The known people whom a visit resembles most, best first, by `fused`: of those whom its sum
    `total` (d,) or one of its `tracks` (t, d) resembles most."""
    asked = np.concatenate([total[None], tracks])
    found = gallery.search_many(asked, NEAREST, kind=Kind.KNOWN)
    alike = list[Match]()
    for match in {m.person_id: m for matches in found for m in matches}.values():
        samples = np.stack([sample.embedding for sample in gallery.samples(match.name)])
        alike.append(replace(match, similarity=float(fused(total, tracks, samples).max())))
    return sorted(alike, key=lambda match: -match.similarity)


def _lasts(visit: Visit[Any], at: datetime) -> bool:
    return at - visit.last <= GAP
