"""Five landmarks read by a small network of their own, in a patch that shows the face upright.

It knows nothing of the detector that found the face: rough points are enough to cut the patch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np

from edgeface.detect import patches, pose
from edgeface.errors import ModelError
from edgeface.models import ModelCard, load_card
from edgeface.runtime import Runtime, Session, open_model
from edgeface.types import Array, Image

DEFAULT = "landmarks"
SIDE = 64  # px, of a patch
EYES = 20.0  # px between the eyes in it, of a head that looks straight ahead
LOOKS = 2  # at the most: the second patch is cut by what the first one showed
# px, of a patch: points that move by less on average need no second look. One upright face in ten
# is looked at twice then, and one in three tilted by 30 degrees, with the errors of two looks.
MOVED = 2.0


class Landmarks:
    """Reads the five points of a face that is roughly known."""

    def __init__(self, session: Session, card: ModelCard) -> None:
        """Wrap a session.

        Raises:
            ModelError: the card is not for patches of `SIDE` px.
        """
        if card.input.size != (SIDE, SIDE):
            found = list(card.input.size or ())
            raise ModelError(
                f"{card.place}: expected [{SIDE}, {SIDE}], got {found} at $.input.size"
            )
        self._session, self.card = session, card

    @classmethod
    def load(
        cls, model: str | Path = DEFAULT, *, runtime: Runtime = "auto", threads: int = 2
    ) -> Self:
        """A ready network by model name or file.

        Raises:
            ModelError: unknown, damaged or not a model for landmarks.
            ArgumentError: bad runtime or threads.
        """
        card = load_card(model, "landmarks")
        return cls(open_model(card, runtime=runtime, threads=threads), card)

    def __call__(self, image: Image, landmarks: Array) -> Array:
        """The points (5, 2) of a face of an image (H, W, 3) uint8 BGR, in its pixels, float32.

        Args:
            landmarks: (5, 2), roughly: within a third of the eye distance and 45 degrees.

        Raises:
            ModelError: the network returned something else than points.
        """
        for _ in range(LOOKS):
            matrix = pose.upright(landmarks, SIDE, EYES)
            expected = landmarks @ matrix[:, :2].T + matrix[:, 2]
            seen = self._read(patches.cut(image, matrix, SIDE))
            landmarks = patches.back(matrix, seen)
            if float(np.linalg.norm(seen - expected, axis=1).mean()) < MOVED:
                break
        return landmarks

    def _read(self, patch: Image) -> Array:
        """The points (5, 2) in a patch, px of it."""
        name = self.card.output("landmarks")
        out = self._session.run({self.card.input.name: self.card.input.tensor(patch[None])})
        found = out.get(name)
        if found is None or found.shape != (1, 10) or not np.isfinite(found).all():
            raise ModelError(
                f"model {self.card.name} returned no ten finite numbers as {name}: it is no "
                "network for landmarks, or its card does not describe it"
            )
        return found.reshape(5, 2)
