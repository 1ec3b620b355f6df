"""How likely the two ends of a kNN edge are one person.

Nine numbers describe an edge; none depends on the embedder's scale of cosines, because similarities
count in units of this data set's own spread between strangers and neighbourhoods are weighed with
every face's own scale. A small network (`EdgeModel`) turns them into a probability.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from edgeface.cluster import graph
from edgeface.cluster.neighbours import Neighbours, neighbours
from edgeface.errors import ModelError
from edgeface.types import Array

FEATURES = (
    "centred similarity",
    "raw similarity",
    "overlap",
    "shared of 5",
    "shared of 20",
    "background",
    "foreground",
    "higher rank",
    "lower rank",
)
# The neighbour whose distances set a face's own scale (Zelnik-Manor and Perona 2004 use the 7th).
LOCAL = 7
CHUNK = 8192
# Statistics of fewer faces than this are mostly drawn from PRIOR: no mean, and the spread between
# strangers that two embedders of 128 and 512 numbers show on training identities.
FEW = 100
PRIOR = 0.09
DEFAULT = Path(__file__).with_name("edge-similarity.json")


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """Embeddings prepared for comparison: `rows` (n, d) centred and unit, `lengths` (n,) of the
    centred rows and `along` (n,) their product with the mean, from which raw cosines follow."""

    rows: Array
    lengths: Array
    along: Array
    offset: float

    @classmethod
    def of(cls, embeddings: Array, mean: Array | None = None) -> Self:
        """Subtract the mean face: what all faces share tells nobody apart. A mean of few faces is
        mostly those people, so it counts as far as there are more than FEW of them."""
        if mean is None:
            mean = mean_face(embeddings)
        rows = embeddings - mean
        lengths = np.maximum(np.sqrt(np.einsum("nd,nd->n", rows, rows)), np.float32(1e-6))
        rows /= lengths[:, None]
        return cls(rows, lengths, embeddings @ mean, float(mean @ mean))

    def raw(self, nodes: graph.Indices, targets: graph.Indices, centred: Array) -> Array:
        """Cosines of the embeddings as they came, from centred ones."""
        return (
            self.lengths[nodes, None] * self.lengths[targets] * centred
            + self.along[nodes, None]
            + self.along[targets]
            - np.float32(self.offset)
        )


def mean_face(embeddings: Array) -> Array:
    """(d,) float32: the mean of the rows, drawn towards zero where they are few."""
    n = len(embeddings)
    return np.asarray(embeddings.mean(axis=0, dtype=np.float64) * (n / (n + FEW)), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class EdgeModel:
    """A network with one hidden layer of rectified units, from `FEATURES` to a logit.

    `mean`, `scale` (f,) normalise; `hidden` (f, h), `hidden_bias` (h,), `output` (h,),
    `output_bias`; `threshold` is the probability from which an edge links two faces.
    """

    mean: Array
    scale: Array
    hidden: Array
    hidden_bias: Array
    output: Array
    output_bias: float
    threshold: float

    @classmethod
    def load(cls, path: str | Path = DEFAULT) -> Self:
        """Read a JSON file that `python -m export similarity` wrote.

        Raises:
            ModelError: missing, damaged, or of other features.
        """
        try:
            raw: dict[str, Any] = json.loads(Path(path).read_text())
            if tuple(raw["features"]) != FEATURES:
                raise ValueError(f"features are {raw['features']}")
            names = ("mean", "scale", "hidden", "hidden_bias", "output")
            arrays = {name: np.array(raw[name], np.float32) for name in names}
            model = cls(
                **arrays,
                output_bias=float(raw["output_bias"]),
                threshold=float(raw["threshold"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{path}: {error}; an edge model for the features {', '.join(FEATURES)} is "
                "needed: write one with `python -m export similarity`"
            ) from error
        width = model.hidden.shape
        if width != (len(FEATURES), len(model.output)) or not np.isfinite(model.hidden).all():
            raise ModelError(f"{path}: hidden weights are {width}; reinstall or retrain the model")
        return model

    def save(self, path: str | Path) -> None:
        """Write the model as JSON, atomically."""
        raw = {
            "features": FEATURES,
            **{
                name: np.asarray(getattr(self, name), np.float64).round(6).tolist()
                for name in ("mean", "scale", "hidden", "hidden_bias", "output")
            },
            "output_bias": round(float(self.output_bias), 6),
            "threshold": self.threshold,
        }
        temporary = Path(f"{path}.part")
        temporary.write_text(json.dumps(raw, indent=1) + "\n")
        temporary.replace(path)

    def __call__(self, features: Array) -> Array:
        """Probabilities (...) of features (..., f)."""
        inner = ((features - self.mean) / self.scale) @ self.hidden + self.hidden_bias
        logits = np.maximum(inner, 0.0, out=inner) @ self.output + np.float32(self.output_bias)
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -30.0, 30.0))), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Neighbourhoods:
    """A kNN graph with what its edges are described by."""

    space: Space
    near: Neighbours
    rows: graph.Rows
    ranks: graph.Rows
    strangers: tuple[float, float, float, float]
    background: Array
    foreground: Array

    @classmethod
    def of(cls, space: Space, k: int) -> Self:
        """Search the k nearest neighbours and prepare their description."""
        return cls.around(space, neighbours(space.rows, k))

    @classmethod
    def around(
        cls,
        space: Space,
        near: Neighbours,
        scale: tuple[float, float, float, float] | None = None,
    ) -> Self:
        """From neighbours found before, and `strangers` measured before."""
        n, k = near.indices.shape
        amounts = [own_scale_amounts(near), *(_first(n, k, count) for count in (5, 20))]
        ranks = np.broadcast_to(np.arange(k, dtype=np.float32), (n, k))
        present = np.maximum(near.similarities, -1.0)
        return cls(
            space,
            near,
            graph.Rows.of(near.indices, amounts),
            graph.Rows.of(near.indices, [ranks]),
            scale or strangers(space),
            present[:, -1],
            present[:, 1:6].mean(axis=1) if k > 1 else present[:, 0],
        )

    def features(self, nodes: graph.Indices) -> Array:
        """(m, k, f) float32 for the edges of `nodes` (m,) int32, in their neighbours' order."""
        targets = self.near.indices[nodes]
        centred = self.near.similarities[nodes]
        k = targets.shape[1]
        common = graph.overlap(self.rows, nodes, targets)
        back = np.log1p(graph.lookup(self.ranks, nodes, targets, absent=float(k)))
        forth = np.log1p(np.broadcast_to(np.arange(k, dtype=np.float32), targets.shape))
        middle, spread, raw_middle, raw_spread = self.strangers
        units = (centred - middle) / spread
        raw = (self.space.raw(nodes, targets, centred) - raw_middle) / raw_spread
        ends = [
            ((values[nodes, None] + values[targets]) / 2 - middle) / spread
            for values in (self.background, self.foreground)
        ]
        return np.stack(
            [units, raw, *common, *ends, np.maximum(back, forth), np.minimum(back, forth)], axis=2
        )

    def probabilities(self, model: EdgeModel, nodes: graph.Indices | None = None) -> Array:
        """(m, k) float32: that the edges of `nodes` (default all) join one person; 1 to itself."""
        chosen = np.arange(len(self.near.indices), dtype=np.int32) if nodes is None else nodes
        out = np.empty((len(chosen), self.near.indices.shape[1]), np.float32)
        for start in range(0, len(chosen), CHUNK):
            part = chosen[start : start + CHUNK]
            out[start : start + CHUNK] = model(self.features(part))
        out[self.near.indices[chosen] < 0] = 0.0
        out[:, 0] = 1.0
        return out


def own_scale_amounts(near: Neighbours) -> Array:
    """Square roots of transition probabilities P_ij ~ exp(-2 d_ij^2 / s_i), d^2 = 2 - 2 cos.

    s_i is the mean d^2 of the LOCAL nearest neighbours, so a sparse neighbourhood is read with a
    coarser scale than a dense one. The product of two such rows sums to their Bhattacharyya
    coefficient, 1 minus the transition-probability distance (TPDi) of Chen et al., On Mitigating
    Hard Clusters for Face Clustering, ECCV 2022.
    """
    squares = 2.0 - 2.0 * np.clip(near.similarities, 0.0, 1.0)
    local = squares[:, 1 : 1 + LOCAL]
    scale = np.maximum(local.mean(axis=1) if local.size else squares[:, 0], 1e-3)
    squares *= (-2.0 / scale)[:, None]
    weights = np.exp(squares, out=squares)
    weights[near.indices < 0] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray(np.sqrt(weights, out=weights), np.float32)


def _first(n: int, k: int, count: int) -> Array:
    # Products of these sum to the share of `count` first neighbours that two faces have in common.
    row = np.zeros(k, np.float32)
    row[:count] = 1.0 / np.sqrt(count)
    return np.broadcast_to(row, (n, k))


def strangers(space: Space) -> tuple[float, float, float, float]:
    """What similarities between strangers are like: middle and spread of centred, then raw ones.

    The median and its distance to the 16 % quantile, over pairs of evenly drawn faces: pairs of one
    person lie above the median, so they do not widen the spread.
    """
    n = len(space.rows)
    drawn = np.unique(np.linspace(0, n - 1, min(n, 1500)).astype(np.int32))
    centred = space.rows[drawn] @ space.rows[drawn].T
    raw = space.raw(drawn, np.broadcast_to(drawn, centred.shape), centred)
    off = ~np.eye(len(drawn), dtype=bool)
    trust = n / (n + FEW)
    found: list[float] = []
    for values in (centred, raw):
        low, middle = np.quantile(values[off], (0.16, 0.5)) if n > 1 else (-PRIOR, 0.0)
        found += [trust * float(middle), trust * float(middle - low) + (1.0 - trust) * PRIOR]
    return found[0], max(found[1], 1e-3), found[2], max(found[3], 1e-3)
