"""`python -m export cohort`: the impostor model that ships beside an embedder.

Fits `edgeface.cohort.Cohort` to pairs of strangers of the sets of a pack. How far its predictions
are off is measured on galleries of sets that the fit has not seen, each set left out once:
galleries of a whole set and of each of its groups, against strangers of the same. A kind of gallery
is one group at one size.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.cohort import Cohort, rate_at
from edgeface.embed import DEFAULT, Embedder
from edgeface.errors import EdgefaceError
from export.data import open_pack
from export.groups import SAME, People, embed_rows, judged, read_labels, sets_of, strangers

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
SIZES = (1, 3, 10, 30, 100, 300, 1000)
FPIRS = (0.1, 0.03, 0.01, 0.003)
DRAWS = 20  # galleries of each size, group and kind of strangers
SEEN = 5  # strangers who must be named for a rate to count as measured
LEAST = 150  # pictures of a group
MOST = 4000  # pictures of a set
ELSEWHERE = "strangers of "  # a gallery searched by people of another set
USUAL, WIDE = 3 / 4, 0.99
_BINS = 20_000  # of similarities from -1 to 1
_CURVE = 96  # points of the curve of a pair


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """A set's embeddings (n, d), what a teacher says of them, and their similarities (n, n), -1
    where a pair may be one person; `kin` (n,) alike for pictures of one person or family; the rows
    of its groups, the whole set's under its own name."""

    name: str
    embeddings: NDArray[np.float32]
    opinion: NDArray[np.float32] | None
    similarity: NDArray[np.float32]
    kin: Rows
    groups: dict[str, Rows]

    def pairs(self, group: str) -> NDArray[np.float64]:
        """The similarities of a group's pairs as a histogram of `_BINS`."""
        rows, counts = self.groups[group], np.zeros(_BINS)
        for i in range(len(rows)):
            found = self.similarity[rows[i]][rows[i + 1 :]]
            places = ((found[found > -1] + 1) * (_BINS / 2)).astype(np.int64)
            counts += np.bincount(np.clip(places, 0, _BINS - 1), minlength=_BINS)
        return counts


@dataclass(frozen=True, slots=True)
class Case:
    """One gallery of a size: at which rate and similarity its own pairs tell the shift, and which
    similarity strangers reached at the rate of pairs that stands for an FPIR."""

    pool: str
    kind: str
    size: int
    own: tuple[float, float] | None
    reached: tuple[tuple[float, float], ...]


def pool_of(people: People, rows: NDArray[np.float32], opinion: NDArray[np.float32] | None) -> Pool:
    """The pool of a set's people, whose embeddings are `rows`, a teacher's `opinion`."""
    similarity, apart = rows @ rows.T, strangers(people, opinion)
    similarity[~apart] = -1
    groups = {name: np.flatnonzero(mask) for name, mask in people.groups.items()}
    large = {name: found for name, found in groups.items() if len(found) >= LEAST}
    whole = {people.name: np.arange(len(rows))}
    return Pool(people.name, rows, opinion, similarity, people.kin, whole | large)


def curve_of(pool: Pool, group: str, rates: Floats) -> Floats:
    """The similarity a pair reaches at each rate, beyond the last pairs at their slope."""
    counts = pool.pairs(group)
    share = np.cumsum(counts[::-1])[::-1] / counts.sum()
    edges = np.linspace(-1.0, 1.0, _BINS, endpoint=False)
    values = np.interp(-np.log(rates), -np.log(np.maximum(share, 1e-12)), edges)
    known = rates * counts.sum() >= 3
    logs, last = np.log(rates), np.log(rates[known][-1])
    decade = known & (logs <= last + np.log(10))
    slope = np.polyfit(logs[decade], values[decade], 1)[0]
    return np.where(known, values, values[known][-1] + slope * (logs - last))


def mean_curve(curves: dict[str, dict[str, Floats]], without: str = "") -> Floats:
    """The mean over all groups, and over the sets that have none, of all pools but one."""
    kept = [
        curve
        for pool, of in curves.items()
        if pool != without
        for group, curve in of.items()
        if group != pool or len(of) == 1
    ]
    return np.asarray(np.maximum.accumulate(np.mean(kept, axis=0) + 1e-9 * np.arange(_CURVE)))


def cases_of(pool: Pool, others: list[Pool], seed: int) -> Iterator[Case]:
    """Galleries drawn from the whole of a pool and from each of its groups, with all others of the
    same as strangers; for galleries of the whole also everybody of each other pool."""
    rng = np.random.default_rng(seed)
    for group, rows in pool.groups.items():
        for size in SIZES:
            if 2 * size > len(np.unique(pool.kin[rows])):
                continue
            for _ in range(DRAWS):
                order = rng.permutation(rows)
                _, first = np.unique(pool.kin[order], return_index=True)
                gallery = order[rng.permutation(first)[:size]]
                found = pool.similarity[gallery]
                own = found[:, gallery][np.triu_indices(size, 1)]
                shown = _quantile(own[own > -1], rate_at(size))
                # Whoever may be somebody enrolled, or a relative, is no stranger to this gallery.
                strange = rows[found.min(axis=0)[rows] > -1]
                best = found.max(axis=0)[strange]
                if reached := _reached(best, size):
                    yield Case(pool.name, group, size, shown, reached)
                if group != pool.name:
                    continue
                for other in others:
                    best = (other.embeddings @ pool.embeddings[gallery].T).max(axis=1)
                    if pool.opinion is not None and other.opinion is not None:
                        alike = (other.opinion @ pool.opinion[gallery].T).max(axis=1)
                        best = best[alike < SAME]
                    reached = _reached(best, size)
                    yield Case(pool.name, f"{ELSEWHERE}{other.name}", size, shown, reached)


def _reached(best: NDArray[np.float32], size: int) -> tuple[tuple[float, float], ...]:
    """The similarity that strangers reach at each FPIR, by the rate of pairs that stands for it."""
    return tuple(
        (-np.expm1(np.log1p(-rate) / size), float(np.quantile(best.astype(np.float64), 1 - rate)))
        for rate in FPIRS
        if len(best) * rate >= SEEN
    )


def _quantile(own: NDArray[np.float32], rate: float) -> tuple[float, float] | None:
    return (rate, float(np.quantile(own, 1 - rate))) if len(own) else None


def fit(found: list[Pool], *, model: str) -> tuple[Cohort, dict[str, float]]:
    """The model, and by kind of gallery the error that 99 % of its galleries stay below.

    EdgefaceError with fewer than three sets: one is left out, and two must remain.
    """
    if len(found) < 3:
        raise EdgefaceError(
            f"{len(found)} sets of people are too few to tell how far sets differ; three are the "
            "least: folders of identities, or sets with --labels"
        )
    most = max(len(np.unique(pool.kin)) for pool in found)
    rates = np.geomspace(0.5, 6.0 / most**2, _CURVE)
    curves = {p.name: {g: curve_of(p, g, rates) for g in p.groups} for p in found}
    cases = [
        case
        for seed, pool in enumerate(found)
        for case in cases_of(pool, [p for p in found if p is not pool], seed)
    ]
    whole = mean_curve(curves)
    own = [c for c in cases if ELSEWHERE not in c.kind]
    sizes = [s for s in SIZES if len({c.pool for c in own if c.size == s}) > 1]
    table = {size: _line([c for c in own if c.size == size], rates, whole) for size in sizes}
    off: dict[int, dict[str, Floats]] = {size: {} for size in sizes}
    for pool in found:
        curve = mean_curve(curves, pool.name)
        for size in sizes:
            others = [c for c in own if c.size == size and c.pool != pool.name]
            offset, slope = _line(others, rates, curve)
            missed: dict[str, list[float]] = {}
            for case in (c for c in cases if (c.size, c.pool) == (size, pool.name)):
                x, y = _shifts(case, rates, curve)
                kind = f"{pool.name}|{case.kind}"
                missed.setdefault(kind, []).append(float((y - offset - slope * x).max()))
            off[size] |= {kind: np.array(values) for kind, values in missed.items()}
    usual = [
        max(0.0, _equal_quantile([v for k, v in off[s].items() if ELSEWHERE not in k], USUAL))
        for s in sizes
    ]
    limits = [max(float(np.quantile(v, WIDE)) for v in off[s].values()) for s in sizes]
    lines = [table[s] for s in sizes]
    cohort = Cohort(
        model,
        sum(len(pool.similarity) for pool in found),
        rates,
        whole,
        np.array(sizes, np.float64),
        np.array([offset for offset, _ in lines]),
        np.array([slope for _, slope in lines]),
        np.array(usual),
        np.maximum(usual, limits),
    )
    return cohort, {
        f"{group}.N{size}": float(np.quantile(values, WIDE))
        for size in sizes
        for group, values in off[size].items()
    }


def _equal_quantile(kinds: list[Floats], share: float) -> float:
    """The quantile over all kinds, each of which counts alike."""
    values = np.concatenate(kinds)
    weights = np.concatenate([np.full(len(kind), 1 / len(kind) / len(kinds)) for kind in kinds])
    order = np.argsort(values)
    return float(values[order][np.searchsorted(np.cumsum(weights[order]), share)])


def _shifts(case: Case, rates: Floats, curve: Floats) -> tuple[float, Floats]:
    """What a gallery shows of its shift, and the shift at each rate that was measured."""
    logs = -np.log(rates)
    x = 0.0
    if case.own is not None:
        x = case.own[1] - float(np.interp(-np.log(case.own[0]), logs, curve))
    y = [value - float(np.interp(-np.log(rate), logs, curve)) for rate, value in case.reached]
    return x, np.array(y)


def _line(cases: list[Case], rates: Floats, curve: Floats) -> tuple[float, float]:
    """Offset and slope of the true shift over the one shown; every kind of gallery counts alike."""
    kinds: dict[str, list[tuple[float, float]]] = {}
    for case in cases:
        x, y = _shifts(case, rates, curve)
        kinds.setdefault(case.pool + case.kind, []).append((x, float(y.mean())))
    xs = np.concatenate([np.array(v)[:, 0] for v in kinds.values()])
    ys = np.concatenate([np.array(v)[:, 1] for v in kinds.values()])
    weights = np.concatenate([np.full(len(v), 1 / len(v)) for v in kinds.values()])
    if np.ptp(xs) < 1e-9:
        return float(np.average(ys, weights=weights)), 0.0
    slope, offset = np.polyfit(xs, ys, 1, w=np.sqrt(weights))
    return float(offset), float(slope)


def fit_to(
    embedder: Embedder,
    pack: Path,
    *,
    labels: Sequence[Path] = (),
    teacher: Path | None = None,
    most: int = MOST,
    without: Sequence[str] = (),
    cache: Path | None = None,
) -> tuple[Cohort, dict[str, float]]:
    """`fit` to the sets of a pack `without` some, at most so many pictures of each."""
    data, pools = open_pack(pack), []
    for people in sets_of(data, read_labels(labels)):
        if people.name in without:
            continue
        people = people.some(most)
        name = f"{people.name}.{embedder.card.digest[:12]}"
        rows = embed_rows(embedder, data, people.rows, name=name, cache=cache)
        pools.append(pool_of(people, rows, judged(pack, teacher, data, people.rows)))
    return fit(pools, model=embedder.card.digest)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export cohort", description=__doc__)
    parser.add_argument("--pack", type=Path, required=True, help="crops packed by `export pack`")
    parser.add_argument("--model", default=DEFAULT, help="name or file of the embedder")
    parser.add_argument("--labels", type=Path, nargs="*", default=[], help="CSV files of groups")
    parser.add_argument("--teacher", type=Path, help="stronger embedder: tells who may be the same")
    parser.add_argument("--out", type=Path, help="default: beside the model, MODEL.cohort.npz")
    parser.add_argument("--most", type=int, default=MOST, help="pictures of a set")
    parser.add_argument("--without", nargs="*", default=[], help="sets to leave out, for a test")
    parser.add_argument("--cache", type=Path, help="folder to keep embeddings in")
    args = parser.parse_args(argv)
    embedder = Embedder.load(args.model)
    cohort, errors = fit_to(
        embedder,
        args.pack,
        labels=args.labels,
        teacher=args.teacher,
        most=args.most,
        without=args.without,
        cache=args.cache,
    )
    out = args.out or embedder.card.path.with_suffix(".cohort.npz")
    cohort.save(out)
    print(f"cohort: {cohort.people} people, {out.stat().st_size} bytes: {out}", file=sys.stderr)
    print(json.dumps({kind: round(error, 4) for kind, error in errors.items()}))
    return 0
