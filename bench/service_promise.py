"""Does what the service shows of its promise hold? Real faces, resampled.

In each run 50 LFW people are enrolled, 1,000 strangers, drawn with replacement from all others,
calibrate for an FPIR of 1 %, and 1,000 more come by and are judged one after another. The true rate
is that of all others at the threshold. `coverage` is the share of `runs` in which the promised
interval holds it, `coverage_low` and `coverage_high` are what so few runs say of the true share (an
exact interval of 95 %): 2,000 runs tell it within one percent point, the 200 of `--quick`, of every
eighth person, within four. `coverage_200` is the share of the first 200 runs, and `seen_coverage`
that in which the interval of what was seen holds the rate. Of the first 200 (`few`):
`false_alarms`, at most `false_alarms_high` by so many runs, is the share of kept promises that are
ever warned of by somebody who looks after every stranger; `found_3x` the share of runs warned of
when strangers are named three times as often as the promised interval allows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.openset import best, embed, pictures
from edgeface.calibrate import calibrate
from edgeface.embed import DEFAULT, Embedder
from edgeface.metrics import Interval, binomial_interval
from edgeface.promise import Warned, judge
from edgeface.types import Array

RUNS, FEW, STRANGERS, ENROLLED, FPIR = 2000, 200, 1000, 50, 1e-2


def warnings(promised: Interval, named: NDArray[np.bool_]) -> set[Warned | None]:
    """What is told to somebody who looks after every stranger. The evidence is largest right before
    and after a name, so only there is it worked out."""
    places, wrong = np.flatnonzero(named), named.cumsum()
    looks = {*(places + 1).tolist(), *places.tolist(), len(named)} - {0}
    return {judge(promised, int(wrong[n - 1]), n).warning for n in looks}


def promises(rows: Array, runs: int) -> dict[str, float]:
    """The figures for people with one unit row (n, d) each."""
    rng = np.random.default_rng(0)
    held, seen_held, alarms, found = list[bool](), list[bool](), list[bool](), list[bool]()
    for run in range(runs):
        order = rng.permutation(len(rows))
        nearest = best(rows[order[ENROLLED:]], rows[order[:ENROLLED]])
        made = calibrate(rng.choice(nearest, STRANGERS), fpir=FPIR, size=ENROLLED)
        promised = made.measured
        truth = float((nearest >= np.float32(made.value)).mean())
        held.append(promised.low <= truth <= promised.high)
        named = rng.choice(nearest, STRANGERS) >= np.float32(made.value)
        seen = judge(promised, int(named.sum()), STRANGERS).seen
        assert seen is not None
        seen_held.append(seen.low <= truth <= seen.high)
        if run >= FEW:
            continue
        if held[-1]:
            alarms.append(bool(warnings(promised, named) - {None}))
        often = rng.random(STRANGERS) < 3 * promised.high
        found.append(Warned.MORE in warnings(promised, often))
    coverage = binomial_interval(sum(held), runs)
    return {
        "service.promise.people": float(len(rows)),
        "service.promise.runs": float(runs),
        "service.promise.few": float(min(FEW, runs)),
        "service.promise.coverage": coverage.value,
        "service.promise.coverage_low": coverage.low,
        "service.promise.coverage_high": coverage.high,
        "service.promise.coverage_200": float(np.mean(held[:FEW])),
        "service.promise.seen_coverage": float(np.mean(seen_held)),
        "service.promise.false_alarms": float(np.mean(alarms)),
        "service.promise.false_alarms_high": binomial_interval(sum(alarms), len(alarms)).high,
        "service.promise.found_3x": float(np.mean(found)),
    }


def promise(shared: Path, quick: bool) -> dict[str, float]:
    """The figures of the people of LFW; see the module's text."""
    files = pictures(shared / "data/lfw/aligned112", 0)[:: 8 if quick else 1]
    return promises(embed(Embedder.load(DEFAULT), files), FEW if quick else RUNS)
