"""Aligned crops to embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import ImageError, ModelError
from edgeface.models import ModelCard, load_card
from edgeface.runtime import Runtime, Session, open_model
from edgeface.types import Array, Image

DEFAULT = "mobilefacenet"
# Runtimes plan memory per input shape; a handful of batch sizes keeps that bounded however many
# faces a frame shows. Beyond a few faces at once a layer's maps no longer fit the cache: ONNX
# Runtime, which keeps them in float32, takes 4 in three quarters of the time per face of 32.
BATCHES = {"onnxruntime": (4, 2, 1), "openvino": (8, 4, 2, 1)}


def batches_for(runtime: str) -> tuple[int, ...]:
    """The batch sizes a runtime is given, largest first; any number of faces is made up of them."""
    return BATCHES.get(runtime, (8, 4, 2, 1))


class Embedder:
    """Maps (n, 112, 112, 3) uint8 BGR crops to (n, d) float32 unit rows."""

    def __init__(self, session: Session, card: ModelCard) -> None:
        self._session = session
        self.card = card

    @classmethod
    def load(
        cls, model: str | Path = DEFAULT, *, runtime: Runtime = "auto", threads: int = 2
    ) -> Self:
        """A ready embedder by model name or file.

        Raises:
            ModelError: unknown, damaged or not an embedding model.
        """
        card = load_card(model, "embedding")
        return cls(open_model(card, runtime=runtime, threads=threads), card)

    @property
    def size(self) -> int:
        """Length d of an embedding."""
        return self.card.size

    def __call__(self, crops: NDArray[Any]) -> Array:
        """Embed aligned crops.

        Args:
            crops: (n, 112, 112, 3) uint8 BGR as `align` cuts them; n may be 0.

        Returns:
            (n, d) float32, every row of unit length.

        Raises:
            ImageError: wrong shape or dtype.
            ModelError: the model returned something that is not an embedding.
        """
        return self.measure(crops)[0]

    def measure(self, crops: NDArray[Any]) -> tuple[Array, Array]:
        """Embed aligned crops, and tell how long each embedding was before it was made a unit row.

        Args, raises: as for a call.

        Returns:
            (n, d) unit rows and their lengths (n,), which fall with how recognisable a face is.
        """
        if crops.ndim != 4 or crops.shape[1:] != (112, 112, 3) or crops.dtype != np.uint8:
            raise ImageError(
                f"crops are {crops.dtype} {crops.shape}; (n, 112, 112, 3) uint8 BGR from align() "
                "is needed"
            )
        rows = np.empty((len(crops), self.size), np.float32)
        lengths = np.empty(len(crops), np.float32)
        start, sizes = 0, batches_for(self._session.runtime)
        while start < len(crops):
            step = next(b for b in sizes if b <= len(crops) - start)
            some = slice(start, start + step)
            rows[some], lengths[some] = self._run(crops[some])
            start += step
        return rows, lengths

    def _run(self, crops: Image) -> tuple[Array, Array]:
        spec = self.card.input
        found = self._session.run({spec.name: spec.tensor(crops)})
        rows = found.get(self.card.output("embedding"), np.empty(0, np.float32))
        if rows.shape != (len(crops), self.size) or not np.isfinite(rows).all():
            raise ModelError(
                f"model {self.card.name} returned {rows.shape} with non-finite values or of the "
                f"wrong size; ({len(crops)}, {self.size}) was expected: reinstall it"
            )
        lengths = np.linalg.norm(rows, axis=1)
        unit = np.asarray(rows / np.maximum(lengths[:, None], 1e-12), np.float32)
        told = found.get(self.card.output("norm"), lengths)
        return unit, np.asarray(told.reshape(-1) if told.size == len(rows) else lengths, np.float32)
