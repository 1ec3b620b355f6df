"""Was the promise of a threshold kept? What it promised of strangers against what became of those
whom somebody has judged since.

A threshold comes with an interval for the share of strangers who get a name. Outcomes come one by
one, and whoever watches looks after each, so a test made for one look would warn of most promises
in time. The warning is therefore a test martingale: a mixture of likelihood ratios of rates beyond
an end of the interval against that end. While the true rate is within, its expectation never grows,
so by Ville's inequality (1939) it ever reaches 1 / α with a probability of α at most, however long
and often somebody looks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from edgeface.errors import ArgumentError
from edgeface.metrics import Interval, binomial_interval

FALSE_ALARMS = 0.05  # of promises that are kept, the share that is ever warned of, both ends in all
# The alternatives: how many times beyond an end of the interval. Closer ones find small excesses
# late, farther ones find large ones after few strangers.
_BEYOND = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


class Warned(StrEnum):
    """Which end of the interval was left: strangers get a name more often than promised, or more
    seldom, so that the threshold is higher than it has to be."""

    MORE = "more"
    FEWER = "fewer"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of `trials` strangers `wrong` got a name; `warning` says which end of the promised interval
    was left, if any."""

    wrong: int
    trials: int
    warning: Warned | None

    @property
    def seen(self) -> Interval | None:
        """The share with its exact 95 % interval (Clopper and Pearson 1934), None for no trials."""
        return binomial_interval(self.wrong, self.trials) if self.trials else None


def judge(promised: Interval | None, wrong: int, trials: int, others: int = 0) -> Outcome:
    """What was seen of a promise.

    Args:
        promised: the interval of the share of strangers who get a name; None if none was promised.
        wrong, trials: of `trials` different strangers, `wrong` were given a name.
        others: further strangers who were given none, though nobody has judged them. They speak
            against a warning of `more`: mistakes are told of sooner than what went right.

    Raises:
        ArgumentError: `wrong` is not from 0 to `trials`, or `others` is below 0.
    """
    if not 0 <= wrong <= trials or others < 0:
        raise ArgumentError(
            f"{wrong} of {trials} strangers and {others} others cannot be: give counts from 0 on"
        )
    return Outcome(wrong, trials, _warned(promised, wrong, trials, others))


def _warned(promised: Interval | None, wrong: int, trials: int, others: int) -> Warned | None:
    if promised is None:
        return None
    enough = math.log(2.0 / FALSE_ALARMS)  # each end gets half
    low, high = promised.low, promised.high
    more = [high * beyond for beyond in _BEYOND if high * beyond < 1.0]
    if high > 0.0 and _evidence(high, more, wrong, trials + others) >= enough:
        return Warned.MORE
    fewer = [low / beyond for beyond in _BEYOND if low / beyond > 0.0]
    if 0.0 < low < 1.0 and _evidence(low, fewer, wrong, trials) >= enough:
        return Warned.FEWER
    return None


def _evidence(end: float, rates: list[float], wrong: int, trials: int) -> float:
    """The logarithm of the mean likelihood ratio of `rates` against the rate `end`."""
    if not rates:
        return 0.0
    logs = [
        wrong * math.log(rate / end) + (trials - wrong) * (math.log1p(-rate) - math.log1p(-end))
        for rate in rates
    ]
    most = max(logs)
    return most + math.log(sum(math.exp(v - most) for v in logs) / len(logs))
