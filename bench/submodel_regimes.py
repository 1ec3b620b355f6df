"""Where MixMaxSim wins: `python -m bench submodels --regimes`, a planned search.

A regime changes one or more factors of a base of 300 synthetic classes: pictures of a class,
number of submodels, wrong labels, heads trained apart and unequally long or not at all, an embedder
with directions that have nothing to do with who it is, and the number of classes. The same on the
real people of the set. `PLAN` was fixed before the repetitions were run.

Every regime is repeated; each repetition draws classes, pictures, partitions and training anew, and
judges every rule of `bench/submodels.py` on the same probes. MixMaxSim wins where the 95 % interval
of its difference is above zero against *each* of the other rules (t, over repetitions). With so
many regimes one of them may win by chance: a win counts when as many repetitions more, with seeds
that the search did not use, say so too (`confirmed`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.report_pages import measured
from bench.submodel_rules import compare
from bench.submodel_sets import Draw, Faces, faces, fit, prepared, root, synthetic
from edgeface.submodels import unit
from export.features import Features, centres_of
from export.head_partition import partition
from export.head_training import HeadSettings, train_heads

Figures = dict[str, float | str | None]
RIVALS = ("single", "ism", "kmeans", "sim", "fold")
METRICS = ("accuracy", "tpir")
QUICK_EVERY = 6  # a quick run looks at one in so many identities
PROBES = 2000  # of a synthetic set
EPOCHS = 6
BATCH, RATE = 64, 5e-3
UNEQUAL = (2, 4, 8)  # epochs of heads trained apart
FAILED = 0.25  # of the heads, where some failed
NUISANCE = 8  # directions
# 97.5 % quantiles of Student's t by degrees of freedom, 1 to 19.
T = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
     2.145, 2.131, 2.120, 2.110, 2.101, 2.093)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Regime:
    """What is drawn and how heads are made. `classes` None: the real people. `spread` scales the
    deviation of a class's pictures, `nuisance` is that of `NUISANCE` common directions, as a share
    of all of it. `apart`: heads start at random and train for `UNEQUAL` epochs; `failed`: a share
    `FAILED` of them are as they began, at random; `closed`: heads are linear discriminants of their
    submodels, without training."""

    name: str
    classes: int | None = 300
    images: int = 20
    submodels: int = 4
    noise: float = 0.0
    spread: float = 1.5
    nuisance: float = 0.0
    apart: bool = False
    failed: bool = False
    closed: bool = False


BASE, REAL = Regime("base"), Regime("real", classes=None)
LARGE = Regime("100,000 classes", classes=100_000, images=4, submodels=50, closed=True)
PLAN = (
    BASE,
    replace(BASE, name="2 pictures", images=2),
    replace(BASE, name="5 pictures", images=5),
    replace(BASE, name="50 submodels", submodels=50),
    replace(BASE, name="2 pictures, 50 submodels", images=2, submodels=50),
    replace(BASE, name="40 % wrong labels", noise=0.4),
    replace(BASE, name="heads apart", apart=True),
    replace(BASE, name="heads apart, 50 submodels", apart=True, submodels=50),
    replace(BASE, name="a quarter of 20 heads failed", failed=True, submodels=20),
    replace(BASE, name="nuisance", nuisance=0.5),
    replace(BASE, name="nuisance, heads apart", nuisance=0.5, apart=True),
    replace(BASE, name="nuisance, a quarter of the heads failed", nuisance=0.5, failed=True),
    replace(BASE, name="nuisance, 5 pictures", nuisance=0.5, images=5),
    replace(BASE, name="linear discriminants", closed=True),
    replace(BASE, name="nuisance, linear discriminants", nuisance=0.5, closed=True),
    REAL,
    replace(REAL, name="real, 2 pictures", images=2),
    replace(REAL, name="real, 2 pictures, 50 submodels", images=2, submodels=50),
    replace(REAL, name="real, 40 % wrong labels", noise=0.4),
    replace(REAL, name="real, heads apart", apart=True),
    replace(REAL, name="real, a quarter of the heads failed", failed=True),
    LARGE,
)


def figures_of(args: argparse.Namespace) -> Figures:
    """The search on the shared people, or on a set of one's own; a quick one is of small classes
    and one repetition more than an interval needs."""
    if args.dataset is None:
        people = faces(args.shared, args.embedder, every=QUICK_EVERY if args.quick else 1)
    else:
        people = pooled(prepared(args.dataset, args.strangers))
    plan = [replace(r, classes=r.classes and 60) for r in PLAN] if args.quick else PLAN
    return search(people, 2 if args.quick else max(args.seeds, 2), plan)


def pooled(drawn: Draw) -> Faces:
    """All features of a divided set, to be divided anew."""
    parts = (drawn.train, drawn.val, drawn.test)
    x, y = np.concatenate([p.x for p in parts]), np.concatenate([p.y for p in parts])
    return Faces(Features(x, y, drawn.train.names), drawn.strangers, drawn.unseen, "unknown", "")


def search(people: Faces, seeds: int, plan: Sequence[Regime] = PLAN) -> Figures:
    """Every regime of the plan, and those won once more."""
    model = fit(people.known)
    out: Figures = {"regimes.repetitions": float(seeds)}
    for regime in plan:
        draw = drawing(regime, people, model)
        out |= told(regime, [repetition(regime, draw, seed) for seed in range(seeds)])
        for metric in METRICS:
            key = f"regimes.{regime.name}.{metric}.wins"
            if out.get(key) == "yes":
                again = [repetition(regime, draw, seed) for seed in range(seeds, 2 * seeds)]
                out[key] = "confirmed" if told(regime, again).get(key) == "yes" else "by chance"
    return out


def drawing(regime: Regime, people: Faces, model: dict[str, NDArray[Any]]) -> Callable[[int], Draw]:
    """Draws of a regime by seed."""
    if regime.classes is None:
        return lambda seed: _spoilt(people.draw(seed), regime, seed)
    within = regime.spread * model["within"].astype(np.float64)
    covariance = within @ within.T
    size, count = len(covariance), int(regime.classes)
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((size, size)))[0][:, :NUISANCE]
    strength = regime.nuisance * np.trace(covariance) / NUISANCE
    own = model | {"within": root(covariance + strength * axes @ axes.T)}
    return lambda seed: _spoilt(
        synthetic(count, own, seed, images=regime.images, probes=PROBES), regime, seed
    )


def _spoilt(draw: Draw, regime: Regime, seed: int) -> Draw:
    """At most `images` of each class to train on, of which `noise` bear another's label."""
    train, rng = draw.train, np.random.default_rng(seed + 5000)
    order = rng.permutation(len(train.y))
    order = order[np.argsort(train.y[order], kind="stable")]
    y = train.y[order]
    rank = np.arange(len(y)) - np.searchsorted(y, y)
    order, y = order[rank < regime.images], y[rank < regime.images]
    n = len(train.names)
    # The first picture of a class keeps its label: no class is without pictures.
    wrong = (rng.random(len(y)) < regime.noise) & (rank[rank < regime.images] > 0)
    y = np.where(wrong, (y + rng.integers(1, n, len(y))) % n, y)
    return replace(draw, train=Features(train.x[order], y, train.names))


def repetition(regime: Regime, draw: Callable[[int], Draw], seed: int) -> dict[str, Any]:
    """Every rule once."""
    started = time.process_time()
    drawn = draw(seed)
    centres = centres_of(drawn.train.x, drawn.train.y, len(drawn.train.names))
    cells = {
        rule: partition(
            centres, min(regime.submodels, len(centres)), method=method, seed=seed, iterations=10
        )
        for rule, method in (("single", "single"), ("ism", "random"), ("kmeans", "kmeans"))
    }
    weights = {rule: _heads(regime, drawn, own, centres, seed) for rule, own in cells.items()}
    found = compare(drawn, weights, cells["kmeans"], centres)
    took = time.process_time() - started
    print(f"regimes: {regime.name}, seed {seed}, {took:.1f} s", file=sys.stderr, flush=True)
    return found


def _heads(
    regime: Regime,
    draw: Draw,
    cells: NDArray[np.int64],
    centres: NDArray[np.float32],
    seed: int,
) -> NDArray[np.float32]:
    if regime.closed:
        return discriminants(draw.train, cells, centres)
    whole = HeadSettings(epochs=EPOCHS, seed=100 * seed, batch=BATCH, lr=RATE)
    rng, heads = np.random.default_rng(seed), int(cells.max()) + 1
    settings = [replace(whole, seed=whole.seed + k) for k in range(heads)]
    if regime.apart:
        # A single head is trained to its end: there is no other that it could be unequal to.
        epochs = rng.choice(UNEQUAL, heads) if heads > 1 else [max(UNEQUAL)]
        settings = [
            replace(own, epochs=int(e), start="random")
            for own, e in zip(settings, epochs, strict=True)
        ]
    if regime.failed and heads > 1:
        for k in rng.permutation(heads)[: max(1, round(FAILED * heads))]:
            settings[k] = replace(settings[k], epochs=0, start="random")
    return train_heads(draw.train, draw.val, cells, settings=settings)


def discriminants(
    train: Features, cells: NDArray[np.int64], centres: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Unit weights (n, d) of a linear discriminant in each submodel (Fisher, 1936): the inverse
    within-class covariance of its pictures, a tenth of it spread evenly, times its class means
    less their own."""
    weights, x = np.empty_like(centres), unit(train.x)
    own = cells[train.y]
    for cell in range(int(cells.max()) + 1):
        classes, rows = np.flatnonzero(cells == cell), np.flatnonzero(own == cell)
        residual = x[rows] - centres[train.y[rows]]
        covariance = (residual.T @ residual / len(rows)).astype(np.float64)
        size = len(covariance)
        covariance = 0.9 * covariance + 0.1 * np.trace(covariance) / size * np.eye(size)
        apart = centres[classes] - centres[classes].mean(axis=0) * (len(classes) > 1)
        weights[classes] = unit(np.linalg.solve(covariance, apart.T).T)
    return weights


def told(regime: Regime, runs: Sequence[dict[str, Any]]) -> Figures:
    """Means of every rule, the difference to each rival with its interval, and whether it wins."""
    at, out = f"regimes.{regime.name}", Figures()
    for metric in METRICS:
        got = {
            rule: np.array([run[rule]["right"].mean() if metric == "accuracy" else run[rule][metric]
                            for run in runs], float)
            for rule in (*RIVALS, "mixmaxsim")
        }  # fmt: skip
        if np.isnan(got["mixmaxsim"]).any():  # no strangers
            continue
        out |= {f"{at}.{metric}.{rule}": float(values.mean()) for rule, values in got.items()}
        bounds = {rule: interval(got["mixmaxsim"] - got[rule]) for rule in RIVALS}
        for rule, (low, high) in bounds.items():
            out |= {
                f"{at}.{metric}.minus_{rule}_low": low,
                f"{at}.{metric}.minus_{rule}_high": high,
            }
        out[f"{at}.{metric}.wins"] = "yes" if min(low for low, _ in bounds.values()) > 0 else "no"
    return out


def interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """95 % of the mean, by Student's t; of equal differences nothing but them."""
    n = len(differences)
    half = T[n - 2] * differences.std(ddof=1) / np.sqrt(n)
    middle = float(differences.mean())
    return middle - float(half), middle + float(half)


def markdown(document: dict[str, Any]) -> str:
    """A table of accuracy and one of the open-set rate."""
    got = document["figures"]
    names = [r.name for r in PLAN if f"regimes.{r.name}.accuracy.sim" in got]
    lines = ["# Where MixMaxSim wins", "",
             f"{measured(document)}. Written by `python -m bench submodels --regimes --update`; "
             f"{got['regimes.repetitions']:.0f} repetitions, see `bench/submodel_regimes.py`. The "
             "last columns: the best of the other rules, and the 95 % interval of what MixMaxSim "
             "has more than it, in points.", ""]  # fmt: skip
    for metric, title in (("accuracy", "Accuracy"), ("tpir", "TPIR at FPIR 1e-2")):
        rules = (*RIVALS, "mixmaxsim")
        lines += [f"## {title}, %", "", f"| regime | {' | '.join(rules)} | best other | minus it |",
                  "|---" * (len(rules) + 3) + "|"]  # fmt: skip
        for name in names:
            at = f"regimes.{name}.{metric}"
            if f"{at}.sim" not in got:
                continue
            best = max(RIVALS, key=lambda rule: got[f"{at}.{rule}"])
            low, high = (100 * got[f"{at}.minus_{best}_{end}"] for end in ("low", "high"))
            cells = " | ".join(f"{100 * got[f'{at}.{rule}']:.2f}" for rule in rules)
            won = "" if got[f"{at}.wins"] == "no" else f" ({got[f'{at}.wins']})"
            lines.append(f"| {name} | {cells} | {best} | {low:+.2f} ... {high:+.2f}{won} |")
        lines.append("")
    return "\n".join(lines)
