"""A transformer over the neighbours of one face: the other kind of first pass of an edge model.

After the similarity prediction of Chen et al., On Mitigating Hard Clusters for Face Clustering,
ECCV 2022. A token is a neighbour: what the first pass sees of its edge (`model.FEATURES`), its rank
and, as a bias of the attention, how alike it is to the other neighbours, so that it fits embedders
of any length and scale. It asks a hundred times the arithmetic of a `model.Network`. Learned by
`export.neighbourhood`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import ModelError
from edgeface.types import Array

EPS = 1e-5  # of the layer normalisations
DIGITS = 6  # of a weight in a file


def shapes(ranks: int, features: int, width: int, heads: int, layers: int) -> dict[str, Any]:
    """The shape of every weight by its name."""
    inner = {
        "before.weight": (width,),
        "before.bias": (width,),
        "inward.weight": (3 * width, width),
        "inward.bias": (3 * width,),
        "outward.weight": (width, width),
        "outward.bias": (width,),
        "after.weight": (width,),
        "after.bias": (width,),
        "forth.weight": (2 * width, width),
        "forth.bias": (2 * width,),
        "back.weight": (width, 2 * width),
        "back.bias": (width,),
        "closeness": (heads,),
    }
    return {
        "mean": (features,),
        "scale": (features,),
        "embed.weight": (width, features),
        "embed.bias": (width,),
        "rank": (ranks, width),
        **{f"layers.{i}.{name}": shape for i in range(layers) for name, shape in inner.items()},
        "last.weight": (width,),
        "last.bias": (width,),
        "judge.0.weight": (width, 2 * width),
        "judge.0.bias": (width,),
        "judge.2.weight": (1, width),
        "judge.2.bias": (1,),
    }


@dataclass(frozen=True, slots=True, eq=False)
class Transformer:
    """Pre-norm attention of `heads` heads in `layers` layers, `weights` as `shapes` names them."""

    heads: int
    layers: int
    weights: Mapping[str, Array]

    def __call__(self, features: Array, closeness: Array, present: NDArray[np.bool_]) -> Array:
        """Probabilities (m, k) float32 of the edges of m faces.

        Args:
            features: (m, k, f) of their edges, the face itself first.
            closeness: (m, k, k), see `edges.Neighbourhoods.closeness`.
            present: (m, k), False where the list of neighbours has ended.
        """
        w, (m, k, _) = self.weights, features.shape
        ranks = np.minimum(np.arange(k), len(w["rank"]) - 1)
        tokens = self._linear((features - w["mean"]) / w["scale"], "embed") + w["rank"][ranks]
        width = tokens.shape[2]
        # A neighbour that is none is looked at by nobody.
        absent = np.where(present, np.float32(0.0), np.float32(-1e9))[:, None, None]
        for i in range(self.layers):
            name = f"layers.{i}."
            inward = self._linear(self._normed(tokens, f"{name}before"), f"{name}inward")
            parts = inward.reshape(m, k, 3, self.heads, -1).transpose(2, 0, 3, 1, 4)
            scores = parts[0] @ parts[1].swapaxes(2, 3)
            scores *= np.float32((width // self.heads) ** -0.5)
            scores += w[f"{name}closeness"][:, None, None] * closeness[:, None]
            scores += absent
            scores -= scores.max(axis=3, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=3, keepdims=True)
            mixed = (scores @ parts[2]).swapaxes(1, 2).reshape(m, k, width)
            tokens = tokens + self._linear(mixed, f"{name}outward")
            wide = self._linear(self._normed(tokens, f"{name}after"), f"{name}forth")
            tokens = tokens + self._linear(np.maximum(wide, 0.0, out=wide), f"{name}back")
        tokens = self._normed(tokens, "last")
        both = np.concatenate([np.broadcast_to(tokens[:, :1], tokens.shape), tokens], axis=2)
        hidden = self._linear(both, "judge.0")
        logits = self._linear(np.maximum(hidden, 0.0, out=hidden), "judge.2")[..., 0]
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -30.0, 30.0))), np.float32)

    def _linear(self, x: Array, name: str) -> Array:
        out: Array = x @ self.weights[f"{name}.weight"].T
        out += self.weights[f"{name}.bias"]
        return out

    def _normed(self, x: Array, name: str) -> Array:
        centred = x - x.mean(axis=2, keepdims=True)
        spread = np.sqrt(np.square(centred).mean(axis=2, keepdims=True) + np.float32(EPS))
        return np.asarray(
            centred / spread * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
        )

    def plain(self) -> dict[str, Any]:
        """What a JSON document holds of it."""
        rounded = {
            name: np.asarray(v, np.float64).round(DIGITS).tolist()
            for name, v in self.weights.items()
        }
        return {"heads": self.heads, "layers": self.layers, "weights": rounded}

    @classmethod
    def parse(cls, raw: Mapping[str, Any], features: int) -> Self:
        """What `plain` gave, for edges of so many `features`.

        Raises:
            ModelError: a weight is missing, not finite or of another shape.
        """
        heads, layers = int(raw["heads"]), int(raw["layers"])
        weights = {name: np.array(v, np.float32) for name, v in raw["weights"].items()}
        rank = weights["rank"]
        if rank.ndim != 2 or not 1 <= heads <= rank.shape[1] or rank.shape[1] % heads:
            raise ModelError(f"rank is {rank.shape} for {heads} heads")
        expected = shapes(len(rank), features, rank.shape[1], heads, layers)
        for name in {*expected, *weights}:
            value, shape = weights.get(name), expected.get(name)
            if value is None or value.shape != shape or not np.isfinite(value).all():
                found = "missing" if value is None else value.shape
                raise ModelError(f"{name} is {found}, expected {shape} finite numbers")
        return cls(heads, layers, weights)
