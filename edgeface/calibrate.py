"""Thresholds with a meaning: how often may a stranger be given a name?

A stranger is compared with everybody, so the rate that matters is the FPIR at the size of the
gallery, the chance that the *most* similar of N people reaches the threshold. It is measured: each
person of an impostor cohort, nobody of whom is enrolled, searches the gallery once, and the
threshold is an order statistic of their best similarities. That needs no assumption about how
similarities are distributed, and the true FPIR at the k-th largest of n is Beta(k, n + 1 - k)
distributed (Rényi 1953), which gives exact intervals. Similarities stay raw cosines: normalising
them by a cohort identified no more people at FPIR 1e-1 and 1e-2 (`python -m bench openset`).

Who has no pictures of strangers gets a threshold from a model of them (`from_model`). A model errs,
so it errs on the safe side: three of four kinds of galleries stay below the rate asked for, and the
interval reaches to what the worst kind does.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeface.errors import CalibrationError
from edgeface.metrics import Interval, beta_quantile
from edgeface.models import ModelCard
from edgeface.types import Threshold

CONFIDENCE = 0.95
RULE_OF_THREE = 3.0  # trials needed: this many over the FPIR (Hanley and Lippman-Hand 1983)
_LEVELS = 64  # points of the stored curve
_TRUSTED = 1e-4  # rate of pairs of a labelled set below which wrong labels prevail
_CURVE_END = 0.5  # the highest exceedance rate it holds


@dataclass(frozen=True, slots=True)
class Calibration:
    """A threshold for `fpir` at `size` enrolled people, from `trials` impostor searches.

    `measured` is the FPIR to expect at the threshold with its 95 % interval, `low` and `high` the
    95 % interval of the threshold itself. `rates` and `values` are the measured curve of exceedance
    rate over threshold, from which thresholds for other sizes are derived. Of origin `model`, no
    stranger was at hand: `trials` is how many people the model was fitted to, `measured` what it
    predicts with the interval it has held on sets it was not fitted to, the curve the safe side.
    """

    value: float
    low: float
    high: float
    fpir: float
    size: int
    trials: int
    measured: Interval
    rates: tuple[float, ...]
    values: tuple[float, ...]
    origin: Literal["calibrated", "model"] = "calibrated"

    @property
    def threshold(self) -> Threshold:
        """The threshold with its origin, such as `calibrated:fpir=1e-3@N=512`, or `model:…`."""
        return Threshold(self.value, f"{self.origin}:fpir={_short(self.fpir)}@N={self.size}")

    def at(self, size: int) -> Threshold:
        """The threshold for the same FPIR when the gallery holds `size` people.

        N' people are N'/N independent draws of N, so FPIR_N' = 1 - (1 - FPIR_N)^(N'/N); the curve
        is read at the rate that gives the wanted FPIR, and continued beyond its end with the
        exponential tail of extreme values (Gumbel domain). The origin names the measured size too.
        """
        if size < 1:
            raise CalibrationError(f"a gallery of {size} people has no threshold: enrol somebody")
        if size == self.size:
            return self.threshold
        origin = f"{self.origin}:fpir={_short(self.fpir)}@N={size},from={self.size}"
        return Threshold(self._value_at(size), origin)

    def default_at(self, size: int) -> Threshold:
        """`at` for a calibration that came with a model: pairs of the people its card speaks of,
        not of the user's. An empty gallery is taken for one of one person.

        In labelled sets some pairs of different people are one person under two names, and these
        make up the far tail: below a rate of 1e-4 the curve is continued rather than read.
        """
        origin = f"card:fpir={_short(self.fpir)}@N={max(size, 1)}"
        value = self.value_at(size, fpir=self.fpir, trusted=_TRUSTED)
        return Threshold(round(value, 4), origin)

    def value_at(self, size: int, *, fpir: float, trusted: float = 0.0) -> float:
        """The similarity that the nearest of `size` people reaches, to a stranger, with probability
        `fpir`; see `at`. The curve is believed down to the rate `trusted`."""
        return self._read(-math.expm1(math.log1p(-fpir) * self.size / max(size, 1)), trusted)

    def _value_at(self, size: int) -> float:
        return self.value_at(size, fpir=self.fpir)

    def _read(self, rate: float, trusted: float = 0.0) -> float:
        x, y = np.log(self.rates), np.array(self.values)
        if 0.0 < trusted < self.rates[-1]:
            x, y = x[(kept := x >= math.log(trusted))], y[kept]
        if math.log(rate) >= x[0]:
            return float(np.interp(math.log(min(rate, self.rates[-1])), x, y))
        # The slope of the last decade measured: thinner tails make this err on the safe side.
        decade = x <= x[0] + math.log(10.0)
        slope = float(np.polyfit(x[decade], y[decade], 1)[0])
        return min(1.0, float(y[0]) + slope * (math.log(rate) - float(x[0])))

    def to_json(self) -> str:
        """One line, to be stored with the gallery."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote; CalibrationError when it did not."""
        try:
            found = json.loads(text)
            found["measured"] = Interval(**found["measured"])
            for name in ("rates", "values"):
                found[name] = tuple(map(float, found[name]))
            if found.get("origin", "calibrated") not in ("calibrated", "model"):
                raise CalibrationError(
                    f"the stored calibration has the origin {found['origin']!r}: calibrate again"
                )
            return cls(**found)
        except (ValueError, TypeError, KeyError) as error:
            raise CalibrationError("the stored calibration is damaged: calibrate again") from error

    @classmethod
    def of_card(cls, card: ModelCard) -> Self | None:
        """What an embedder's card says of impostors, None where none were measured."""
        found = card.impostors
        if found is None:
            return None
        return cls(**{f.name: getattr(found, f.name) for f in fields(found)})


def trials_needed(fpir: float) -> int:
    """How many impostor searches a threshold for `fpir` needs: three over it (rule of three)."""
    if not 0.0 < fpir < 1.0:
        raise CalibrationError(f"an FPIR of {fpir} is no rate: choose one between 0 and 1")
    return math.ceil(RULE_OF_THREE / fpir - 1e-9)


def calibrate(best: ArrayLike, *, fpir: float, size: int) -> Calibration:
    """The threshold at which a stranger is named with probability `fpir`.

    `best` (n,): for each of n people who are not enrolled, one face each, the similarity of the
    most similar of the `size` people in the gallery. CalibrationError when n < 3 / fpir.
    """
    scores = _impostors(best)
    needed, n = trials_needed(fpir), len(scores)
    if n < needed:
        raise CalibrationError(
            f"{n} impostors are too few for an FPIR of {_short(fpir)}: {needed - n} more people "
            f"are needed, or an FPIR of {RULE_OF_THREE / n:.1g} or above"
        )
    if size < 1:
        raise CalibrationError("the gallery is empty: enrol somebody before calibrating")
    descending = np.sort(scores)[::-1]
    k = math.floor(fpir * (n + 1) + 1e-9)  # E[FPIR at the k-th largest] = k / (n + 1)
    tail = (1.0 - CONFIDENCE) / 2.0
    measured = Interval(
        k / (n + 1), beta_quantile(tail, k, n + 1 - k), beta_quantile(1.0 - tail, k, n + 1 - k)
    )
    rates = np.geomspace(1.0 / (n + 1), _CURVE_END, _LEVELS)
    ranks = np.clip(rates * (n + 1), 1.0, n)
    values = np.interp(ranks, np.arange(1, n + 1), descending)
    first, last = _threshold_ranks(fpir, n, tail)
    return Calibration(
        value=float(descending[k - 1]),
        low=float(descending[last - 1]),
        high=1.0 if first == 0 else float(descending[first - 1]),
        fpir=fpir,
        size=size,
        trials=n,
        measured=measured,
        rates=tuple(rates.tolist()),
        values=tuple(values.tolist()),
    )


def from_model(
    values: ArrayLike,
    expected: ArrayLike,
    safe: ArrayLike,
    high: ArrayLike,
    *,
    fpir: float,
    size: int,
    people: int,
    least: float,
    floor: float = -1.0,
) -> Calibration:
    """The threshold at which, by a model of strangers, one is named with probability `fpir`.

    Args:
        values, expected, safe, high: (m,) each; at rising thresholds the FPIR that the model
            expects, the one to go by, and the high end of the predicted 95 % interval. The low end
            is 0: strangers may be unlike everybody enrolled.
        size, people: how many are enrolled, and how many the model was fitted to.
        least: the smallest rate that the model knows of.
        floor: the threshold is no lower than this.

    Raises:
        CalibrationError: `fpir` is no rate or below `least`.
    """
    if not 0.0 < fpir < 1.0:
        raise CalibrationError(f"an FPIR of {fpir} is no rate: choose one between 0 and 1")
    if fpir < least:
        raise CalibrationError(
            f"the model of strangers knows no FPIR below {_up(least)} for a gallery of {size}, "
            f"{_short(fpir)} was asked for: choose {_up(least)} or more, or give pictures of "
            "people who are not enrolled, three over the rate of them"
        )
    at = np.asarray(values, np.float64)
    curves = [np.log(np.asarray(rates, np.float64)) for rates in (expected, safe, high)]

    def where(curve: NDArray[np.float64], rate: float) -> float:
        return float(np.interp(-math.log(rate), -curve, at))

    wanted = where(curves[1], fpir)
    value = max(wanted, floor)
    rates = np.geomspace(max(math.exp(curves[1][-1]), least / 10), _CURVE_END, _LEVELS)
    middle, _, upper = (float(np.exp(np.interp(value, at, curve))) for curve in curves)
    return Calibration(
        value=value,
        low=min(where(curves[0], fpir), value),
        high=max(where(curves[2], fpir), value),
        fpir=fpir,
        size=size,
        trials=people,
        measured=Interval(middle, 0.0, upper),
        rates=tuple(rates.tolist()),
        values=tuple(where(curves[1], rate) for rate in rates.tolist()),
        origin="model",
    )


def _up(rate: float) -> str:
    """`rate` with two digits, rounded up."""
    unit = 10.0 ** (math.floor(math.log10(rate)) - 1)
    return f"{math.ceil(rate / unit - 1e-9) * unit:.1e}".replace("e-0", "e-")


def _threshold_ranks(rate: float, n: int, tail: float) -> tuple[int, int]:
    """Ranks, largest first, whose values enclose the threshold of exactly `rate`: how many of n
    impostors exceed it is binomial. Rank 0 stands for no upper bound."""
    k = np.arange(n + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    mass = np.exp(
        logs[n] - logs[k] - logs[n - k] + k * math.log(rate) + (n - k) * math.log1p(-rate)
    )
    below = np.cumsum(mass)
    first = int(np.searchsorted(below, tail))
    last = int(np.searchsorted(below, 1.0 - tail)) + 1
    return first, min(last, n)


def _impostors(values: ArrayLike) -> NDArray[np.float64]:
    scores = np.asarray(values, np.float64)
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise CalibrationError(
            f"impostor similarities of shape {scores.shape} cannot be used: give (n,) finite ones"
        )
    return scores


def _short(rate: float) -> str:
    """`rate` the way it is written: 1e-3, 0.05."""
    mantissa, exponent = f"{rate:.3e}".split("e")
    text = mantissa.rstrip("0").rstrip(".")
    return f"1e{int(exponent)}" if text == "1" else f"{rate:g}"
