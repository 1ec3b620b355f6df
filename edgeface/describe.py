"""From an image to described faces: the one way that pictures, video and piles share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from edgeface.alignment import align
from edgeface.gate import PartDetector
from edgeface.models import ModelCard
from edgeface.quality import factors, rate
from edgeface.recognisability import Recogniser, Verdict
from edgeface.track import TrackerOptions
from edgeface.types import Array, Face, Image

# Detector score from which a face counts, everywhere; what a detector gives below it only keeps
# tracks alive. Precision equals recall here (`detect.dev.break_even` of `bench detect`).
CONFIDENT = 0.5
# The quality at which a face is as likely as not to be recognised, where nothing better is known.
HALF = 0.05


class FaceDetector(PartDetector, Protocol):
    """What the composition needs of a detector."""

    def search(self, image: Image, /) -> list[Face]:
        """The faces of a single picture, thoroughly, each measured as `refine` does."""
        ...

    def refine(self, image: Image, face: Face, /) -> Face:
        """One face of an image with better landmarks, score and pose."""
        ...


# Share of the quality asked for from which a face is worth a closer look: of the faces of a stage
# clip that come to it then, 98 in 100 have half of it before.
HOPEFUL = 0.5


def find(look: Callable[[Image], list[Face]], image: Image) -> list[Face]:
    """The faces that `look` finds in a picture (H, W, 3) and that count, in its order."""
    return [f for f in look(image) if f.score >= CONFIDENT]


def measure(image: Image, faces: Sequence[Face]) -> tuple[Image, list[Face]]:
    """The aligned crops (n, 112, 112, 3) of faces, and the faces with their quality."""
    crops = align(image, faces)
    size = (image.shape[0], image.shape[1])
    return crops, [replace(f, quality=rate(f, c, size)) for f, c in zip(faces, crops, strict=True)]


class FaceEmbedder(Protocol):
    """What the composition needs of an embedder: unit rows (n, d) of crops, and by `measure` also
    the lengths (n,) they had before."""

    @property
    def size(self) -> int: ...

    @property
    def card(self) -> ModelCard: ...

    def __call__(self, crops: Image, /) -> Array: ...

    def measure(self, crops: Image, /) -> tuple[Array, Array]: ...


class Appraiser:
    """What an embedder makes of faces that were found, and how far that can be trusted: by the
    measure of recognisability beside its model, and by the quality of the picture where there is
    none."""

    def __init__(self, embedder: FaceEmbedder) -> None:
        self.embedder = embedder
        self._recogniser = Recogniser.beside(embedder.card.path, embedder.card.digest)

    def __call__(self, image: Image, faces: Sequence[Face], *, least: float = 0.0) -> list[Face]:
        """The faces with quality and flaw; those of quality `least` or more also with embedding and
        recognisability."""
        crops, rated = measure(image, faces)
        good = [i for i, face in enumerate(rated) if face.quality >= least]
        for i in set(range(len(rated))) - set(good):
            rated[i] = replace(rated[i], flaw=_by_quality(rated[i], crops[i]).flaw)
        if not good:
            return rated
        rows, lengths = self.embedder.measure(crops[good])
        some = [rated[i] for i in good]
        if self._recogniser is None:
            verdicts = [_by_quality(f, c) for f, c in zip(some, crops[good], strict=True)]
        else:
            verdicts = self._recogniser(crops[good], some, rows, lengths)
        for i, row, verdict in zip(good, rows, verdicts, strict=True):
            rated[i] = replace(
                rated[i], embedding=row, recognisability=verdict.chance, flaw=verdict.flaw
            )
        return rated


def _by_quality(face: Face, crop: Image) -> Verdict:
    """The verdict on a rated face of an embedder nobody fitted a measure to."""
    chance = face.quality**2 / (face.quality**2 + HALF**2)
    weak = factors(face, crop)
    return Verdict.of(chance, face, min(weak, key=lambda flaw: weak[flaw]))


class Describer:
    """A detector and an embedder. It keeps nothing between calls, so that all cameras of a process
    share one, from threads of their own; the shipped networks allow that."""

    def __init__(self, detector: FaceDetector, embedder: FaceEmbedder) -> None:
        self.detector, self.embedder = detector, embedder
        self.describe = Appraiser(embedder)

    @property
    def tracking(self) -> TrackerOptions:
        """How faces of this detector are tracked, told apart by this embedder."""
        return TrackerOptions(high=CONFIDENT, low=0.0, rejoin=self.embedder.card.threshold.value)

    def __call__(self, image: Image) -> list[Face]:
        """Every face of a picture (H, W, 3) that counts, embedded and judged, largest first."""
        faces = self.describe(image, find(self.detector.search, image))
        return sorted(faces, key=lambda f: -float(np.prod(f.box[2:] - f.box[:2])))

    def follow(self, image: Image, faces: Sequence[Face], *, least: float) -> list[Face]:
        """`describe` for faces that were found quickly: each is measured once more before, if it
        can come to `least` at all."""
        rated = measure(image, faces)[1]
        hopeful = [f.quality >= HOPEFUL * least for f in rated]
        again = [
            self.detector.refine(image, face) if hope else face
            for face, hope in zip(faces, hopeful, strict=True)
        ]
        return self.describe(image, again, least=least)
