"""How alike strangers are, for whoever has no pictures of any.

A model of pairs, fitted to people of many sets and groups (`python -m export cohort`): the
similarity that a pair of strangers reaches at each rate, as the mean over the groups. What a
gallery's own strangers are like differs from that by a shift, because people of one age or origin
resemble each other more. Those enrolled are strangers to one another, so their resemblance tells
the shift, though not exactly. How far it was off in sets that the fit had not seen is in the file
too: `usual`, which held in three of four kinds of galleries, and `limits`, which held in 99 % of
the galleries of the worst kind. No picture and no person is in the file, only averages over
thousands of people.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeface.atomic import replacing
from edgeface.errors import CalibrationError
from edgeface.types import Array

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]
# How many pairs of those enrolled lie above the similarity that tells the shift. Fewer are left to
# chance; more are less of the tail, which is what decides.
EXCEEDING = 10
MOST = 2000  # people compared with one another; two million pairs tell enough
BLOCK = 256  # of them against all at once: some ten megabytes
_LEVELS = 200  # points of a forecast
# The far tail belongs to the odd one: two people who look like one, one under two names, somebody
# unlike everybody enrolled but like many strangers. At a cosine that 3e-6 of CelebA's own pairs
# reach, 1e-6 to 5e-5 of the pairs between two training sets do, and one person in a thousand is
# taken for by over 1 % of another set. This share of pairs is added to the high end.
ALIKE = 2e-5


@dataclass(frozen=True, slots=True)
class Resemblance:
    """Among `people` different ones, a share `rate` of the pairs is at least `similarity` alike."""

    people: int
    rate: float
    similarity: float


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """What to expect of a gallery: at each of `values` (m,), rising, the FPIR `expected` of
    strangers like its people, the one that three of four kinds of galleries stay below, `safe`, and
    the `high` end of the predicted 95 % interval, all falling."""

    values: Floats
    expected: Floats
    safe: Floats
    high: Floats


def rate_at(people: int) -> float:
    """The share of the pairs of so many people whose similarity tells the shift."""
    return min(0.5, EXCEEDING / max(1.0, people * (people - 1) / 2))


def chosen(names: Sequence[str]) -> Sequence[str]:
    """Of more than 2,000 people that many, always the same ones."""
    if len(names) <= MOST:
        return names
    places = np.random.default_rng(0).choice(len(names), MOST, replace=False)
    return [names[i] for i in np.sort(places).tolist()]


def resemblance(people: Sequence[Array], *, progress: Progress | None = None) -> Resemblance | None:
    """How alike different people are, of whom `people` holds the embeddings (k, d) each; None for
    fewer than two.

    One face of each is compared with all faces of each other, whose nearest counts, as in a search.
    `progress` is told how many are done, and of how many. Time and memory grow with the square and
    with the number of people: give those `chosen`.
    """
    n = len(people)
    if n < 2:
        return None
    rows = np.concatenate(people)
    starts = np.concatenate([[0], np.cumsum([len(p) for p in people])[:-1]])
    kept = math.ceil(2 * EXCEEDING) if n > 7 else n * (n - 1)  # each pair is met from both ends
    top = np.empty(0, np.float32)
    for at in range(0, n, BLOCK):
        faces = rows[starts[at : at + BLOCK]]
        nearest = np.maximum.reduceat(faces @ rows.T, starts, axis=1)
        nearest[np.arange(len(faces)), np.arange(at, at + len(faces))] = -np.inf
        top = np.sort(np.concatenate([top, nearest.ravel()]))[::-1][:kept]
        if progress is not None:
            progress(min(at + BLOCK, n), n)
    found = top[np.isfinite(top)]
    rate = rate_at(n)
    return Resemblance(n, rate, float(found[round(rate * n * (n - 1)) - 1]))


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """`model` digest of the embedder, `people` it was fitted to. A pair of strangers reaches
    `values` (m,), rising, at `rates` (m,), falling. For galleries of `sizes` (k,), rising from 1:
    the shift is `offsets` + `slopes` · (what those enrolled show), `usual` more where the model
    errs, at most `limits` more."""

    model: str
    people: int
    rates: Floats
    values: Floats
    sizes: Floats
    offsets: Floats
    slopes: Floats
    usual: Floats
    limits: Floats

    def least(self, size: int) -> float:
        """The smallest FPIR that is known of at `size` people: below it the curve has no pairs."""
        return -math.expm1(size * math.log1p(-float(self.rates[-1])))

    def forecast(self, size: int, seen: Resemblance | None) -> Forecast:
        """What strangers do to a gallery of `size` people who resemble each other as `seen`.

        Raises:
            CalibrationError: the gallery is empty.
        """
        if size < 1:
            raise CalibrationError("the gallery is empty: enrol somebody before calibrating")
        place = math.log(min(max(size, 1), self.sizes[-1]))
        offset, slope, usual, limit = (
            float(np.interp(place, np.log(self.sizes), column)) for column in self._table
        )
        shown = 0.0 if seen is None else seen.similarity - self.value_at(seen.rate)
        shift = offset + slope * shown
        values = np.linspace(self.values[0] + shift, self.values[-1] + shift + limit, _LEVELS)
        expected, safe = (self._fpir(values - shift - more, size) for more in (0.0, usual))
        high = self._fpir(values - shift - limit, size, ALIKE)
        return Forecast(values, expected, safe, high)

    def value_at(self, rate: float) -> float:
        """The similarity that a share `rate` of all pairs of strangers reaches."""
        return float(np.interp(-math.log(rate), -np.log(self.rates), self.values))

    def _fpir(self, values: Floats, size: int, more: float = 0.0) -> Floats:
        """How often the nearest of `size` people reaches `values`, `more` being added to the rate
        of pairs; the end of the curve goes on at its own slope, so that nothing is promised to be
        impossible."""
        logs = np.interp(values, self.values, np.log(self.rates))
        beyond = values > self.values[-1]
        steps = (self.values[-1] - self.values[-8]) / 7
        falls = (np.log(self.rates[-1]) - np.log(self.rates[-8])) / 7
        logs[beyond] += (values[beyond] - self.values[-1]) / max(steps, 1e-6) * falls
        return np.asarray(-np.expm1(size * np.log1p(-np.minimum(np.exp(logs) + more, 0.99))))

    @property
    def _table(self) -> tuple[Floats, ...]:
        return self.offsets, self.slopes, self.usual, self.limits

    def save(self, path: str | Path) -> None:
        """Write an `.npz`."""
        with replacing(path) as file:
            arrays: dict[str, Any] = {n: np.array(getattr(self, n)) for n in self.__slots__}
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | Path, *, model: str | None = None) -> Self:
        """What `save` wrote. CalibrationError when it is not that, or not for `model`."""
        try:
            # From memory: numpy leaves a damaged file open.
            with np.load(BytesIO(Path(path).read_bytes()), allow_pickle=False) as file:
                arrays = [np.array(file[name], np.float64) for name in _ARRAYS]
                cohort = cls(str(file["model"]), int(file["people"]), *arrays)
        except Exception as error:  # zipfile, zlib and numpy raise what they like on a damaged file
            raise CalibrationError(f"{path} is not an impostor model: {error}") from error
        cohort._check(path)
        if model is not None and model != cohort.model:
            raise CalibrationError(
                f"{path} was made for model {cohort.model}, this is model {model}: give your own "
                "impostors, or fit an impostor model for this one"
            )
        return cohort

    def _check(self, path: str | Path) -> None:
        curve, table = (self.rates, self.values), (self.sizes, *self._table)
        right = (
            all(np.isfinite(x).all() and x.ndim == 1 for x in (*curve, *table))
            and len({len(x) for x in curve}) == len({len(x) for x in table}) == 1
            and len(self.rates) >= 8
            and len(self.sizes) >= 1
            and bool((np.diff(self.values) > 0).all() and (np.diff(self.rates) < 0).all())
            and bool((np.diff(self.sizes) > 0).all() and self.sizes[0] == 1)
            and bool(self.rates[-1] > 0 and self.rates[0] < 1 and (self.limits >= self.usual).all())
        )
        if not right:
            raise CalibrationError(f"{path} is damaged: its curve or table cannot be one")


_ARRAYS = ("rates", "values", "sizes", "offsets", "slopes", "usual", "limits")
