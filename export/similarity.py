"""Learn the edge model of clustering: from what two faces' neighbourhoods share to the probability
that they are one person. Trained on several embedders' features at once, on training identities
only, in sets of 3 to 15,000 faces, so that one model serves any embedder and any pile."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgeface.cluster import divide, graph
from edgeface.cluster.edges import DEFAULT, FEATURES, EdgeModel, Neighbourhoods, Space
from edgeface.metrics.clustering import bcubed
from export.identities import TEACHER, Labelled, training_sets

K = 64
# Faces of the small sets drawn from each training set, and how many sets of that size.
SMALL = {3: 60, 8: 60, 25: 30, 80: 12, 250: 5, 800: 2, 2500: 1}
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
HIDDEN, STEPS, BATCH = 32, 3000, 1024


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


def examples(
    faces: Labelled, rng: np.random.Generator, limit: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], Neighbourhoods]:
    """Features and labels of the edges of at most `limit` random faces of a set."""
    around = Neighbourhoods.of(Space.of(faces.embeddings), K)
    nodes = np.sort(rng.permutation(len(faces.labels))[:limit]).astype(np.int32)
    features = around.features(nodes)[:, 1:]
    same = faces.labels[around.near.indices[nodes][:, 1:]] == faces.labels[nodes, None]
    return features.reshape(-1, len(FEATURES)), same.ravel().astype(np.float32), around


def fit(groups: list[tuple[NDArray[np.float32], NDArray[np.float32]]], seed: int) -> EdgeModel:
    """Minimise the cross-entropy with every group weighing the same."""
    torch.manual_seed(seed)
    mean = np.mean([f.mean(axis=0) for f, _ in groups], axis=0)
    scale = np.mean([f.std(axis=0) for f, _ in groups], axis=0) + 1e-3
    data = [
        (torch.tensor((f - mean) / scale, dtype=torch.float32), torch.tensor(s)) for f, s in groups
    ]
    network = torch.nn.Sequential(
        torch.nn.Linear(len(FEATURES), HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, 1)
    )
    optimiser = torch.optim.Adam(network.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    share = max(1, BATCH // len(data))
    for _ in range(STEPS):
        picks = [torch.randint(len(s), (share,)) for _, s in data]
        features = torch.cat([f[p] for (f, _), p in zip(data, picks, strict=True)])
        same = torch.cat([s[p] for (_, s), p in zip(data, picks, strict=True)])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(features)[:, 0], same)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    arrays = [p.detach().numpy() for p in network.parameters()]
    return EdgeModel(
        mean.astype(np.float32),
        scale.astype(np.float32),
        arrays[0].T.copy(),
        arrays[1],
        arrays[2][0],
        float(arrays[3][0]),
        0.7,
    )


def score(
    model: EdgeModel, sets: list[tuple[Neighbourhoods, NDArray[np.int64]]]
) -> dict[float, float]:
    """Mean BCubed F over sets, per threshold."""
    totals = dict.fromkeys(THRESHOLDS, 0.0)
    for around, truth in sets:
        probabilities = around.probabilities(model)
        for threshold in THRESHOLDS:
            gate = np.zeros(len(truth), bool)
            labels = divide(around.near.indices, probabilities, gate, threshold)
            totals[threshold] += bcubed(truth, labels).f / len(sets)
    return totals


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export similarity", description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "edgeface-bench-embeddings"
    )
    parser.add_argument("--features", action="append", metavar="NAME[=FILE]", required=True)
    parser.add_argument("--half", action="store_true", help="learn from every second person only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=DEFAULT)
    args = parser.parse_args(argv)

    from bench.clustering import source

    rng = np.random.default_rng(args.seed)
    teacher = source(TEACHER, args.shared, args.cache)
    groups, held, small = [], [], []
    for name in args.features:
        for which, faces in training_sets(source(name, args.shared, args.cache), teacher).items():
            learned = faces
            if args.half and which == "mixed":
                held.append(faces.take(np.flatnonzero(faces.labels % 2 == 1)))
                learned = faces.take(np.flatnonzero(faces.labels % 2 == 0))
            features, same, around = examples(learned, rng, 1500)
            groups.append((features, same))
            if not args.half and which == "mixed":
                held.append((around, faces.labels))
            drawn = [(s, examples(s, rng, 300)) for s in small_sets(learned, rng)]
            groups.append(tuple(np.concatenate([d[1][i] for d in drawn]) for i in (0, 1)))
            small += [(d[1][2], d[0].labels) for d in drawn if 25 <= len(d[0].labels) <= 800]
            print(f"{name} {which}: {sum(len(g[1]) for g in groups)} edges", file=sys.stderr)
    torch.set_num_threads(1)  # products this small only wait for each other on more
    model = fit(groups, args.seed)
    model.save(args.output)
    print(f"{args.output}: fitted", file=sys.stderr)
    checked = [
        (Neighbourhoods.of(Space.of(h.embeddings), K), h.labels) if isinstance(h, Labelled) else h
        for h in held
    ]
    large_scores, small_scores = score(model, checked), score(model, small)
    means = {t: (large_scores[t] + small_scores[t]) / 2 for t in THRESHOLDS}
    for t in THRESHOLDS:
        print(f"threshold {t}: large {large_scores[t]:.4f} small {small_scores[t]:.4f}")
    best = max(means, key=lambda t: means[t])
    EdgeModel(*(getattr(model, f) for f in _FIELDS), threshold=best).save(args.output)
    print(f"{args.output}: threshold {best}, graph steps in {graph.path()}", file=sys.stderr)
    return 0


_FIELDS = ("mean", "scale", "hidden", "hidden_bias", "output", "output_bias")
