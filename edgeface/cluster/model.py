"""The networks that say how likely the two ends of a kNN edge are one person."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from edgeface.atomic import replacing
from edgeface.cluster.attention import Transformer
from edgeface.errors import ModelError
from edgeface.types import Array

# What the first pass sees of an edge; `edges.Neighbourhoods.features` computes them.
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
    "higher standing",
    "lower standing",
    "higher lead",
    "lower lead",
    "higher commonness",
    "lower commonness",
)
# What the second pass sees besides; `support.Support.features` computes them.
SUPPORT = (
    "first pass",
    "overlap of people",
    "share of the smaller",
    "share of the larger",
    "smaller mass",
    "larger mass",
    "higher rival",
    "lower rival",
)
DEFAULT = Path(__file__).with_name("edge-similarity.json")
_PARTS = ("mean", "scale", "hidden", "hidden_bias", "output")


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """One hidden layer of rectified units, from f features to the logit of a probability.

    `mean`, `scale` (f,) normalise; `hidden` (f, h), `hidden_bias` (h,), `output` (h,),
    `output_bias`.
    """

    mean: Array
    scale: Array
    hidden: Array
    hidden_bias: Array
    output: Array
    output_bias: float

    def __call__(self, features: Array) -> Array:
        """Probabilities (...) float32 of features (..., f)."""
        inner = ((features - self.mean) / self.scale) @ self.hidden + self.hidden_bias
        logits = np.maximum(inner, 0.0, out=inner) @ self.output + np.float32(self.output_bias)
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -30.0, 30.0))), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class EdgeModel:
    """`first` judges every edge by the two neighbourhoods, or by all the edges around one of its
    ends; `second` the likely ones again by what the first found around them; an edge links two
    faces from the probability `threshold`."""

    first: Network | Transformer
    second: Network
    threshold: float

    @classmethod
    def load(cls, path: str | Path = DEFAULT) -> Self:
        """Read a JSON file that `python -m export similarity` wrote.

        Raises:
            ModelError: missing, damaged, or of other features.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise ModelError(f"{path}: {error}; an edge model is needed") from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """What `text` gave; an error names `where` it stands.

        Raises:
            ModelError: damaged, or of other features.
        """
        try:
            raw: dict[str, Any] = json.loads(text)
            return cls(
                _first(raw["first"]),
                _network(raw["second"], (*FEATURES, *SUPPORT)),
                float(raw["threshold"]),
            )
        except (ValueError, KeyError, TypeError, ModelError) as error:
            raise ModelError(
                f"{where}: {error}; a two-pass edge model is needed: reinstall edgeface or write "
                "one with `python -m export similarity`"
            ) from error

    def text(self) -> str:
        """The model as a JSON document."""
        raw = {
            "first": _plain(self.first, FEATURES)
            if isinstance(self.first, Network)
            else {"features": FEATURES, **self.first.plain()},
            "second": _plain(self.second, (*FEATURES, *SUPPORT)),
            "threshold": self.threshold,
        }
        return f"{json.dumps(raw)}\n"

    def save(self, path: str | Path) -> None:
        """Write the model as JSON, atomically."""
        with replacing(path) as file:
            file.write(self.text().encode())


def _plain(network: Network, features: tuple[str, ...]) -> dict[str, Any]:
    return {
        "features": features,
        **{n: np.asarray(getattr(network, n), np.float64).round(6).tolist() for n in _PARTS},
        "output_bias": round(float(network.output_bias), 6),
    }


def _first(raw: dict[str, Any]) -> Network | Transformer:
    if "heads" not in raw:
        return _network(raw, FEATURES)
    _check_features(raw, FEATURES)
    return Transformer.parse(raw, len(FEATURES))


def _check_features(raw: dict[str, Any], features: tuple[str, ...]) -> None:
    if tuple(raw["features"]) != features:
        raise ModelError(f"features are {raw['features']}, expected {', '.join(features)}")


def _network(raw: dict[str, Any], features: tuple[str, ...]) -> Network:
    _check_features(raw, features)
    arrays = {name: np.array(raw[name], np.float32) for name in _PARTS}
    network = Network(**arrays, output_bias=float(raw["output_bias"]))
    width = len(network.output)
    shapes: dict[str, tuple[int, ...]] = {"mean": (len(features),), "scale": (len(features),)}
    shapes |= {"hidden": (len(features), width), "hidden_bias": (width,), "output": (width,)}
    for name, shape in shapes.items():
        if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
            raise ModelError(f"{name} is {arrays[name].shape}, expected {shape} finite numbers")
    return network
