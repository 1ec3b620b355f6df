"""People at large, as a model draws them: impostors for whoever has none of their own.

A mixture of Gaussians fitted to the embeddings of many faces, one per person. What it draws are
nobody's embeddings, and its parameters are averages over many people, so it may travel with an
embedding model. Components share one basis, the principal axes of all embeddings, in which each has
its own mean and variances; a single Gaussian would miss that faces come in kinds, and so the
resemblance between strangers of one kind, which decides thresholds at low FPIR.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from edgeface.atomic import replacing
from edgeface.errors import CalibrationError
from edgeface.types import Array

# With 128 components the thresholds drawn for galleries of 100 to 4,000 training people were .008
# to .036 below those of real strangers among them, with 256 at most .028, with 512 at most .013;
# but the more there are, the fewer people each is an average over.
COMPONENTS = 256
LEAST = 10  # people in a component; a mean over fewer would be too much like somebody
_ROUNDS = 15  # of spherical k-means, which has settled by then
_PRIOR = 20.0  # faces' worth of the common variances in each component


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """`model` digest of the embedder, `weights` (m,) sum 1, `means` and `deviations` (m, d) in the
    basis `axes` (d, d) with orthonormal columns, `centre` (d,)."""

    model: str
    weights: Array
    means: Array
    deviations: Array
    axes: Array
    centre: Array

    @classmethod
    def fit(cls, embeddings: Array, *, model: str, components: int = COMPONENTS) -> Self:
        """The cohort that resembles `embeddings` (n, d) float32 unit rows, one per person.

        CalibrationError when there are fewer than 20 people per component.
        """
        n = len(embeddings)
        if n < 20 * components:
            raise CalibrationError(
                f"{n} people are too few for {components} components: give {20 * components}"
            )
        rng = np.random.default_rng(0)
        heads = embeddings[rng.choice(n, components, replace=False)]
        for _ in range(_ROUNDS):
            kind = (embeddings @ heads.T).argmax(axis=1)
            sums = np.zeros_like(heads)
            np.add.at(sums, kind, embeddings)
            lengths = np.linalg.norm(sums, axis=1, keepdims=True)
            heads = np.where(lengths > 1e-6, sums / np.maximum(lengths, 1e-6), heads)
        centre = embeddings.mean(axis=0)
        _, axes = np.linalg.eigh(np.cov((embeddings - centre).T))
        turned = (embeddings - centre) @ axes
        common = turned.var(axis=0)
        counts = np.bincount(kind, minlength=components)
        counts[counts < LEAST] = 0
        means, deviations = np.zeros_like(heads), np.zeros_like(heads)
        for j in np.flatnonzero(counts):
            some = turned[kind == j]
            own = some.var(axis=0)
            prior = common * (own.sum() / common.sum())
            means[j] = some.mean(axis=0)
            deviations[j] = np.sqrt((len(some) * own + _PRIOR * prior) / (len(some) + _PRIOR))
        arrays = (counts / counts.sum(), means, deviations, axes, centre)
        return cls(model, *(np.asarray(a, np.float32) for a in arrays))

    def draw(self, n: int, *, seed: int = 0) -> Array:
        """`n` people, (n, d) float32 unit rows; the same for the same seed."""
        rng = np.random.default_rng(seed)
        shares = self.weights.astype(np.float64)
        kind = rng.choice(len(shares), n, p=shares / shares.sum())
        turned = rng.standard_normal((n, len(self.centre))) * self.deviations[kind]
        rows = (turned + self.means[kind]) @ self.axes.T + self.centre
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)

    def save(self, path: str | Path) -> None:
        """Write an `.npz` in half precision."""
        with replacing(path) as file:
            np.savez_compressed(
                file,
                model=np.array(self.model),
                **{name: getattr(self, name).astype(np.float16) for name in _ARRAYS},
            )

    @classmethod
    def load(cls, path: str | Path, *, model: str | None = None) -> Self:
        """What `save` wrote. CalibrationError when it is not that, or not for `model`."""
        try:
            with np.load(path, allow_pickle=False) as file:
                made_for = str(file["model"])
                arrays = [file[name].astype(np.float32) for name in _ARRAYS]
        except (OSError, EOFError, ValueError, KeyError) as error:
            raise CalibrationError(f"{path} is not a cohort: {error}") from error
        if model is not None and model != made_for:
            raise CalibrationError(
                f"{path} was made for model {made_for}, this is model {model}: give your own "
                "impostors, or fit a cohort for this model"
            )
        return cls(made_for, *arrays)


_ARRAYS = ("weights", "means", "deviations", "axes", "centre")
