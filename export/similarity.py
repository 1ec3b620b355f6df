"""Learn the edge model of clustering: from what two faces' neighbourhoods share to the probability
that they are one person. Trained on several embedders' features at once, on training identities
only, in sets of 3 to 15,000 faces, so that one model serves any embedder and any pile.

Half of the identities are kept back first: on them the link threshold is chosen and the candidates
are compared (a five-parameter logistic, the first pass alone, both passes, and with `--transformer`
a neighbourhood transformer). What ships is then fitted on all training identities."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgeface.cluster import graph
from edgeface.cluster.attention import Transformer
from edgeface.cluster.edges import Neighbourhoods
from edgeface.cluster.model import DEFAULT, FEATURES, EdgeModel, Network
from edgeface.cluster.people import K, divide
from edgeface.cluster.space import Space
from edgeface.cluster.support import LIKELY, Support
from edgeface.errors import DataError
from edgeface.metrics.clustering import bcubed
from export import neighbourhood
from export.protocols.identities import TEACHER, Labelled, training_sets

Floats = NDArray[np.float32]
# Faces of the small sets drawn from each training set, and how many sets of that size.
SMALL = {2: 60, 3: 40, 8: 30, 25: 12, 80: 6, 250: 3, 800: 2, 2500: 1}
# Faces per set whose edges are learned from.
LARGE_SHARE, SMALL_SHARE = 3000, 300
THRESHOLDS = (0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8)
HIDDEN, STEPS, BATCH = 24, 3000, 2048
# An edge between two pictures of one person weighs the person's size to this power less one: with
# 0 edges of large people, nearly all there are, set what the model takes small people's for.
# Chosen on training identities from 0, 0.1, 0.25, 0.5 and 1.
BALANCE = 0.1
# The five parameters of the calibrated logistic: these and a constant.
LOGISTIC = [FEATURES.index(f) for f in ("centred similarity", "overlap", "higher rank")] + [
    FEATURES.index("lower commonness")
]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A set to learn from: `group` (embedder and kind) weighs as much as every other; `nodes` are
    the faces whose edges are examples."""

    group: tuple[str, str]
    around: Neighbourhoods
    labels: NDArray[np.int64]
    nodes: NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Edges: `features` (e, f), whether the ends are the `same` person (e,), `weight` (e,)."""

    features: Floats
    same: Floats
    weight: Floats


def small_sets(faces: Labelled, rng: np.random.Generator) -> Iterator[Labelled]:
    """People drawn at random, of each a random number of pictures."""
    for size, count in SMALL.items():
        for _ in range(count):
            rows: list[int] = []
            for person in rng.permutation(int(faces.labels.max()) + 1):
                own = rng.permutation(np.flatnonzero(faces.labels == person))
                rows += own[: max(1, int(rng.pareto(1.0) * 2))].tolist()
                if len(rows) >= size:
                    break
            yield faces.take(np.array(rows[:size], np.int64))


def case_of(group: tuple[str, str], faces: Labelled, share: int, rng: np.random.Generator) -> Case:
    nodes = np.sort(rng.permutation(len(faces.labels))[:share]).astype(np.int32)
    space = Space.of(faces.embeddings)
    return Case(group, Neighbourhoods.of(space, K), faces.labels, nodes)


def cases(name: str, sets: dict[str, Labelled], rng: np.random.Generator) -> list[Case]:
    """The training sets of one embedder and small sets drawn from them."""
    found = []
    for kind, faces in sets.items():
        found.append(case_of((name, kind), faces, LARGE_SHARE, rng))
        small = small_sets(faces, rng)
        found += [case_of((name, "small"), s, SMALL_SHARE, rng) for s in small]
    return found


def examples(case: Case, first: Floats | None = None) -> Examples:
    """The edges of a case as the first pass sees them or, given what that found for the whole set,
    the likely ones as the second does."""
    nodes, sizes = case.nodes, np.bincount(case.labels)[case.labels]
    features = case.around.features(nodes)
    kept = np.ones(features.shape[:2], bool)
    if first is not None:
        support = Support.of(case.around.near.indices, first)
        features = np.concatenate([features, support.features(nodes)], axis=2)
        kept = first[nodes] >= LIKELY
    kept[:, 0] = False
    same = case.labels[case.around.near.indices[nodes]] == case.labels[nodes, None]
    large = np.maximum(sizes[nodes] - 1, 1)[:, None].astype(np.float32)
    weight = np.where(same, large**-BALANCE, np.float32(1.0))
    return Examples(features[kept], same[kept].astype(np.float32), weight[kept].astype(np.float32))


def grouped(parts: list[tuple[tuple[str, str], Examples]]) -> list[Examples]:
    """One collection of examples per group."""
    groups: dict[tuple[str, str], list[Examples]] = {}
    for group, part in parts:
        if len(part.same):
            groups.setdefault(group, []).append(part)
    return [
        Examples(*(np.concatenate([getattr(p, f) for p in ps]) for f in Examples.__slots__))
        for ps in groups.values()
    ]


def fit(groups: list[Examples], seed: int, *, columns: list[int] | None = None) -> Network:
    """Minimise the weighted cross-entropy with every group weighing the same. With `columns` the
    network is a logistic in those features alone."""
    torch.manual_seed(seed)
    count = groups[0].features.shape[1]
    used = np.isin(np.arange(count), columns if columns else np.arange(count))
    mean = np.mean([g.features.mean(axis=0) for g in groups], axis=0)
    scale = np.mean([g.features.std(axis=0) for g in groups], axis=0) + 1e-3
    data = [
        (
            torch.tensor((g.features - mean) / scale * used, dtype=torch.float32),
            torch.tensor(g.same),
            torch.tensor(g.weight / g.weight.mean()),
        )
        for g in groups
    ]
    network = torch.nn.Sequential(
        torch.nn.Linear(count, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, 1)
    )
    if columns:
        network = torch.nn.Sequential(torch.nn.Linear(count, 1))
    optimiser = torch.optim.Adam(network.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    share = max(1, BATCH // len(data))
    for _ in range(STEPS):
        picks = [torch.randint(len(d[1]), (share,)) for d in data]
        features, same, weight = (
            torch.cat([d[i][p] for d, p in zip(data, picks, strict=True)]) for i in range(3)
        )
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            network(features)[:, 0], same, weight=weight
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    arrays = [p.detach().numpy() for p in network.parameters()]
    if columns:  # z = relu(z) - relu(-z)
        slope = arrays[0][0] * used
        arrays = [np.stack([slope, -slope]), np.append(arrays[1], -arrays[1])]
        arrays += [np.array([[1.0, -1.0]], np.float32), np.zeros(1, np.float32)]
    return Network(
        mean.astype(np.float32),
        scale.astype(np.float32),
        arrays[0].T.copy(),
        arrays[1],
        arrays[2][0],
        float(arrays[3][0]),
    )


First = Network | Transformer


def first_of(of: list[Case], seed: int) -> Network:
    """A network as first pass, from the edges of the cases."""
    return fit(grouped([(c.group, examples(c)) for c in of]), seed)


def attending(of: list[Case], seed: int) -> Transformer:
    """A transformer as first pass."""
    return neighbourhood.plain(neighbourhood.trained(of, seed))


FIRSTS: dict[str, Callable[[list[Case], int], First]] = {
    "two passes": first_of,
    "transformer, second pass": attending,
}


def with_second(first: First, of: list[Case], seed: int, threshold: float = 0.5) -> EdgeModel:
    """An edge model of `first` and a second pass fitted on what that says of the cases."""
    second = fit(grouped([(c.group, examples(c, c.around.first_pass(first))) for c in of]), seed)
    return EdgeModel(first, second, threshold)


Scores = dict[float, dict[str, float]]


def scored(judge: Callable[[Case], Floats], of: list[Case]) -> Scores:
    """Mean BCubed F per threshold and kind of set, over sets of 25 faces and more."""
    totals: dict[float, dict[str, list[float]]] = {t: {} for t in THRESHOLDS}
    for case in of:
        if len(case.labels) < 25:
            continue
        probabilities = judge(case)
        gate = np.zeros(len(case.labels), bool)
        kind = case.group[1]
        for threshold in THRESHOLDS:
            labels = divide(case.around.near.indices, probabilities, gate, threshold)
            totals[threshold].setdefault(kind, []).append(bcubed(case.labels, labels).f)
    return {t: {k: float(np.mean(v)) for k, v in kinds.items()} for t, kinds in totals.items()}


def best(scores: Scores) -> float:
    """The threshold with the best mean over kinds of sets."""
    return max(scores, key=lambda t: float(np.mean(list(scores[t].values()))))


def mean(scores: Scores) -> float:
    """The mean over kinds of sets at the best threshold."""
    return float(np.mean(list(scores[best(scores)].values())))


def told(name: str, scores: Scores) -> str:
    at = best(scores)
    kinds = "  ".join(f"{k} {v:.4f}" for k, v in scores[at].items())
    return f"{name:24} {at:.2f}  mean {mean(scores):.4f}  {kinds}"


def half(sets: dict[str, Labelled], odd: bool) -> dict[str, Labelled]:
    """Every second identity."""
    return {k: s.take(np.flatnonzero(s.labels % 2 == int(odd))) for k, s in sets.items()}


MOST = 100_000  # faces of a part that an edge model is learned from


def of_part(faces: Labelled, seed: int = 0) -> EdgeModel:
    """The edge model of one labelled set. Its first pass is a network or a transformer, whichever
    does better on every second identity when learned from the others, and the threshold is the best
    one there; then both passes are fitted on all. Of a large set so many whole identities, drawn at
    random, as have `MOST` faces.

    Raises:
        DataError: there are fewer than four identities.
    """
    sizes = np.bincount(faces.labels)
    if len(sizes) < 4:
        raise DataError(f"{len(sizes)} identities, at least 4 are needed to learn from")
    order = np.random.default_rng(seed).permutation(len(sizes))
    some = order[: max(4, int(np.searchsorted(np.cumsum(sizes[order]), MOST)) + 1)]
    faces = faces.take(np.flatnonzero(np.isin(faces.labels, some)))
    torch.set_num_threads(1)

    def gathered(sets: dict[str, Labelled]) -> list[Case]:
        return cases("given", sets, np.random.default_rng(seed))

    sets = {"given": faces}
    even, held = gathered(half(sets, False)), gathered(half(sets, True))
    found: dict[str, Scores] = {}
    for name, learn in FIRSTS.items():
        model = with_second(learn(even, seed), even, seed)
        found[name] = scored(model_judge(model), held)
        print(told(name, found[name]), file=sys.stderr, flush=True)
    name = max(found, key=lambda n: mean(found[n]))
    every = gathered(sets)
    return with_second(FIRSTS[name](every, seed), every, seed, best(found[name]))


def model_judge(model: EdgeModel) -> Callable[[Case], Floats]:
    return lambda case: case.around.probabilities(model)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export similarity", description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "edgeface-bench-embeddings"
    )
    parser.add_argument("--features", action="append", metavar="NAME[=FILE]", required=True)
    parser.add_argument("--transformer", action="store_true", help="also train and compare that")
    parser.add_argument("--threshold", type=float, help="one chosen before; skip the comparison")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=DEFAULT)
    args = parser.parse_args(argv)

    from export.protocols.embedders import source

    teacher = source(TEACHER, args.shared, args.cache)
    sets = {
        name: training_sets(source(name, args.shared, args.cache), teacher)
        for name in args.features
    }
    torch.set_num_threads(1)  # products this small only wait for each other on more

    def gathered(odd: bool | None) -> list[Case]:
        rng = np.random.default_rng(args.seed)
        chosen = {n: s if odd is None else half(s, odd) for n, s in sets.items()}
        return [c for n, s in chosen.items() for c in cases(n, s, rng)]

    threshold = args.threshold or compared(gathered(False), gathered(True), args)
    whole = gathered(None)
    with_second(first_of(whole, args.seed), whole, args.seed, threshold).save(args.output)
    print(f"{args.output}: threshold {threshold}, graph steps in {graph.path()}", file=sys.stderr)
    return 0


def compared(learn: list[Case], held: list[Case], args: argparse.Namespace) -> float:
    """Fit the candidates on `learn`, print how they do on `held`, each at its best threshold, and
    return that of the two passes."""
    seed = args.seed
    seen = grouped([(c.group, examples(c)) for c in learn])
    print(f"{sum(len(g.same) for g in seen)} edges to learn from", file=sys.stderr)
    logistic = fit(seen, seed, columns=LOGISTIC)
    print(told("logistic of five", scored(lambda c: c.around.first_pass(logistic), held)))
    first = fit(seen, seed)
    print(told("first pass", scored(lambda c: c.around.first_pass(first), held)))
    both = with_second(first, learn, seed)
    scores = scored(model_judge(both), held)
    print(told("two passes", scores), flush=True)
    if args.transformer:
        network = attending(learn, seed)
        print(told("transformer", scored(lambda c: c.around.first_pass(network), held)))
        further = with_second(network, learn, seed)
        print(told("transformer, second pass", scored(model_judge(further), held)), flush=True)
    return best(scores)
