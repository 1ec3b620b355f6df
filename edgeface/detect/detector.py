"""The detector: a network of any family brought to pictures of any size.

A family says how its outputs become boxes and landmarks; it is one module and one row of
`FAMILIES`, and cards name it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from edgeface.detect import grid, looks, yunet
from edgeface.detect.boxes import Candidates, blend, overlaps, suppress
from edgeface.detect.landmarks import Landmarks
from edgeface.errors import ArgumentError, ModelError
from edgeface.images import check
from edgeface.models import ModelCard, load_card
from edgeface.runtime import Runtime, Session, open_model
from edgeface.types import Array, Face, Image

DEFAULT = "detector"
NMS_IOU = 0.4
MAX_SIDE = 640
_NOTHING = np.empty(0, np.float32)  # where a network has no output of that name
REFINED = 0.05  # score from which the upright look takes something for a face: low, it is reported


class Family(Protocol):
    """What one kind of network needs that others need not: a module of this package."""

    MULTIPLE: int  # px, of which the sides of an input are multiples

    def shapes(self, height: int, width: int) -> dict[str, tuple[int, ...]]:
        """The outputs for an input of `height` and `width` px, and their shapes."""
        ...

    def decode(
        self, maps: Mapping[str, Array], threshold: float, size: tuple[int, int]
    ) -> Candidates:
        """The faces of one picture.

        Args:
            maps: what `shapes` names, float32.
            threshold: lowest score, in (0, 1).
            size: height and width of the input in px.

        Returns:
            At most `MAX_CANDIDATES`, best first.
        """
        ...


FAMILIES: dict[str, Family] = {"grid": grid, "yunet": yunet}


class Detector:
    """Finds faces in (H, W, 3) uint8 BGR images."""

    def __init__(
        self,
        session: Session,
        card: ModelCard,
        *,
        max_side: int = MAX_SIDE,
        score_threshold: float | None = None,
        landmarks: Landmarks | None = None,
    ) -> None:
        """Wrap a session.

        Args:
            session: a network with the outputs that its family reads.
            card: its card; gives the family, the input and the default threshold.
            max_side: px; a larger image is scaled down to this before detection, a smaller one is
                taken as it is. Faces below about 10 px after that are not found.
            score_threshold: lowest score of a face, in (0, 1); None takes the card's.
            landmarks: what reads the points when a face is measured; None leaves them as the
                detector has them.

        Raises:
            ArgumentError: `max_side` < 32 or a threshold outside (0, 1).
            ModelError: the card asks for what this detector cannot do.
        """
        threshold = card.threshold.value if score_threshold is None else score_threshold
        if not 0 < threshold < 1:
            raise ArgumentError(f"score threshold is {threshold}; it must lie between 0 and 1")
        if card.family not in FAMILIES:
            known = " or ".join(map(repr, FAMILIES))
            raise ModelError(f"{card.place}: expected {known}, got {card.family!r} at $.family")
        self._family = FAMILIES[card.family]
        multiple, fixed = self._family.MULTIPLE, card.input.size
        if max_side < multiple:
            raise ArgumentError(f"max_side is {max_side}; {multiple} or more is needed")
        if fixed is not None and any(n % multiple or n < looks.PATCH for n in fixed):
            raise ModelError(
                f"{card.place}: expected multiples of {multiple} from {looks.PATCH} on, got "
                f"{list(fixed)} at $.input.size"
            )
        self._session = session
        self.card = card
        self.max_side = max_side if fixed is None else min(max_side, *fixed)
        self.score_threshold = threshold
        self._landmarks = landmarks
        self._kept = threading.local()  # each thread its own buffer

    @classmethod
    def load(
        cls,
        model: str | Path = DEFAULT,
        *,
        runtime: Runtime = "auto",
        threads: int = 2,
        max_side: int = MAX_SIDE,
        score_threshold: float | None = None,
    ) -> Self:
        """A ready detector by model name or file, and with it the network that reads landmarks.

        Raises:
            ModelError: unknown, damaged or not a detection model.
            ArgumentError: bad `max_side`, threshold, runtime or threads.
        """
        card = load_card(model, "detection")
        return cls(
            open_model(card, runtime=runtime, threads=threads),
            card,
            max_side=max_side,
            score_threshold=score_threshold,
            landmarks=Landmarks.load(runtime=runtime, threads=threads),
        )

    def __call__(self, image: NDArray[Any]) -> list[Face]:
        """Detect the faces of one image.

        Args:
            image: (H, W, 3) uint8 BGR of any size.

        Returns:
            Faces, best score first; boxes (clipped to the image) and landmarks in its pixels.

        Raises:
            ImageError: wrong shape or dtype.
            ModelError: the model's outputs are not those of a detector.
        """
        return looks.look(self._find, check(image), self.max_side)

    @property
    def any_size(self) -> bool:
        """Whether the network takes pictures of any size, so that a small one costs less."""
        return self.card.input.size is None

    def within(
        self, image: NDArray[Any], part: tuple[int, int, int, int], ratio: float
    ) -> list[Face]:
        """Detect the faces of a part of an image, at a cost in proportion to what is looked at.

        Args:
            image: (H, W, 3) uint8 BGR of any size.
            part: x1, y1, x2, y2 in its pixels.
            ratio: how large the part is looked at, 1 as it is.

        Returns, raises: as for a call; boxes and landmarks are in pixels of the image.
        """
        x1, y1, x2, y2 = part
        shift = np.array([x1, y1], np.float32)
        return [
            replace(f, box=f.box + np.tile(shift, 2), landmarks=f.landmarks + shift)
            for f in looks.closer(self._find, check(image)[y1:y2, x1:x2], ratio)
        ]

    def search(self, image: NDArray[Any]) -> list[Face]:
        """Detect the faces of a single picture and measure each as `refine` does: also such as
        fill it, and, where none is sure, turned by quarters. What is no face on a second look is
        left out. One to five times the work of a call, and a sixth of it per face.

        Args, returns, raises: as for a call.
        """
        return looks.search(
            self._find, self._measured, check(image), self.max_side, self.score_threshold
        )

    def refine(self, image: NDArray[Any], face: Face) -> Face:
        """Measure a face once more, turned upright in a small patch; about a sixth of the work of
        a call at 640x480.

        Args:
            image: (H, W, 3) uint8 BGR.
            face: one of its faces.

        Returns:
            the face with the landmarks, `pose` and score of that look; score 0 and the landmarks
            it had where the look shows no face. The box stays.

        Raises:
            ImageError: wrong shape or dtype.
        """
        return self._measured(check(image), face)

    def _measured(self, image: Image, face: Face) -> Face:
        """`refine` of an image that was checked."""
        return looks.refine(self._closely, self._landmarks, image, face)

    def _closely(self, patch: Image) -> list[Face]:
        """The face in the middle of a patch if there is one."""
        return self.read(self.maps(patch), patch, REFINED, near=looks.MIDDLE)

    def _find(self, image: Image) -> list[Face]:
        """The faces of `image` as it is."""
        return self.read(self.maps(image), image, self.score_threshold)

    def maps(self, image: Image) -> dict[str, Array]:
        """What the network puts out for an image as it is, under the names of the card's outputs.

        Raises:
            ModelError: the model's outputs are not those of its family.
        """
        picture = self._padded(image)
        found = self._session.run({self.card.input.name: self.card.input.tensor(picture)})
        maps = dict(found)
        for role, shape in self._family.shapes(*picture.shape[1:3]).items():
            maps[role] = found.get(self.card.output(role), _NOTHING)
            if maps[role].shape != shape:
                raise ModelError(
                    f"model {self.card.name} returned {maps[role].shape} for {role}, {shape} was "
                    f"expected: it is no face detector of the family {self.card.family}, or its "
                    "card does not describe it"
                )
        return maps

    def read(
        self,
        maps: Mapping[str, Array],
        image: Image,
        threshold: float,
        near: Array | None = None,
    ) -> list[Face]:
        """The faces in the `maps` of an image, from a score of `threshold` on, best first; with
        a box `near` (4,) only the one of the best product of score and overlap with it."""
        height, width = image.shape[:2]
        size = self._padded_size(image)
        candidates = self._family.decode(maps, threshold, size)
        limit = np.array([width, height] * 2, np.float32)
        faces = []
        for group in self._groups(candidates, near):
            box, landmarks = blend(candidates, group)
            box = np.clip(box, 0, limit)
            if (box[2:] > box[:2]).all():  # a box wholly in the padding is no face of this image
                faces.append(Face(box, landmarks, float(candidates.scores[group[0]])))
        return faces

    def _groups(self, candidates: Candidates, near: Array | None) -> list[list[int]]:
        """The rows of `candidates` that mean one face, its best first; see `read`."""
        if near is None or not len(candidates.boxes):
            return suppress(candidates.boxes, NMS_IOU)
        best = int((overlaps(near[None], candidates.boxes)[0] * candidates.scores).argmax())
        shared = overlaps(candidates.boxes[[best]], candidates.boxes)[0]
        shared[best] = 0
        return [[best, *map(int, np.flatnonzero(shared > NMS_IOU))]]

    def _padded_size(self, image: Image) -> tuple[int, int]:
        """Height and width of what the network is fed for `image`."""
        if self.card.input.size is not None:
            return self.card.input.size
        multiple = self._family.MULTIPLE
        height, width = (-(-n // multiple) * multiple for n in image.shape[:2])
        return height, width

    def _padded(self, image: Image) -> Image:
        """`image` as (1, H, W, 3), black to the right and below up to the size the network takes.

        The buffer is kept while sizes stay the same, as the frames of a video do; patches for
        `refine` come between them and need none.
        """
        height, width = self._padded_size(image)
        if image.shape[:2] == (height, width):
            return image[None]
        kept = self._kept
        if getattr(kept, "size", None) != image.shape[:2]:
            kept.size = image.shape[:2]
            kept.picture = np.zeros((1, height, width, 3), np.uint8)
        picture: Image = kept.picture
        picture[0, : image.shape[0], : image.shape[1]] = image
        return picture
