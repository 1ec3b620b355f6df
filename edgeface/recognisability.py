"""Which faces can be recognised at all: the chance that a face's owner is found, and what is wrong
with it where that is small.

Embedders answer for faces that nobody could recognise with much the same embedding, whoever it is:
such a face in a gallery lends its name to strangers. Two small layers judge by what the embedder
made of a face, the length of its answer and how near it lies to where spoilt faces go, and by the
light, contrast and sharpness of the crop. `python -m export recognisability` fits them to one
embedder; they lie beside it. An embedder that finds few owners would refuse many sharp faces: its
answers are moved up then (`export.recognisability_floor`), and are more than the chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self
from zipfile import BadZipFile

import numpy as np

from edgeface.errors import ModelError
from edgeface.opencv import cv2
from edgeface.types import Array, Face, Flaw, Image

# Least chance of a face that is enrolled or learnt, and of one that is named. `bench quality`, of
# strangers with the flaw of ten people's enrolment pictures: with both 0 (blur, motion, JPEG), .1
# (25 px), .5 (masks) and 1.5 % (darkness) get a name, without 61, 56, 19, .2, 2.2 and 5.5 %, and
# 2.3 % of LFW's pictures are not enrolled. With .3 and .1 it was 3 % for masks and darkness.
ENROLLED, NAMED = 0.5, 0.3
TOO_SMALL = 13.0  # px between the eyes below which want of detail comes from the distance
TURNED = 35.0  # degrees of yaw or pitch from which a head is called turned away
UPSIDE_DOWN = 110.0  # degrees of roll
SURE = 0.7  # score of a face without doubt: of others pose and what covers them say little
_GRID = (4, 4)  # cells of a crop whose light and contrast are told


@dataclass(frozen=True, slots=True)
class Verdict:
    """The `chance` in [0, 1] that a face's owner is found, and what is wrong with the face, None
    where that is enough to be enrolled."""

    chance: float
    flaw: Flaw | None

    @classmethod
    def of(cls, chance: float, face: Face, look: Flaw) -> Self:
        """The verdict on a face; `look` is the likeliest flaw by its crop alone."""
        return cls(chance, None if chance >= ENROLLED else _told(face, look))


def _told(face: Face, look: Flaw) -> Flaw:
    """What is wrong with an unfit face: what its crop looks like, unless how the head is turned or
    how small it is says more. Of a face without detail the landmarks say little."""
    pose = face.pose
    if look in {Flaw.MASKED, Flaw.TURNED_AWAY, Flaw.UPSIDE_DOWN} and pose is not None:
        if face.score < SURE:
            return Flaw.NO_SURE_FACE
        if abs(pose.roll) > UPSIDE_DOWN:
            return Flaw.UPSIDE_DOWN
        if max(abs(pose.yaw), abs(pose.pitch)) > TURNED:
            return Flaw.TURNED_AWAY
    apart = float(np.linalg.norm(face.landmarks[1] - face.landmarks[0]))
    if apart < TOO_SMALL and look in {Flaw.BLURRED, Flaw.TOO_SMALL, Flaw.COMPRESSED}:
        return Flaw.TOO_SMALL
    return Flaw.BLURRED if look is Flaw.TOO_SMALL else look


def describe_crop(crop: Image) -> Array:
    """Light and contrast in 4x4 cells, colour in 4x2, detail of three sizes and in two directions
    of a crop (112, 112, 3) uint8 BGR: (53,) float32."""
    tones = cv2.cvtColor(crop, cv2.COLOR_BGR2YCrCb).astype(np.float32)
    light = np.ascontiguousarray(tones[..., 0])
    mean = cv2.resize(light, _GRID, interpolation=cv2.INTER_AREA)
    square = cv2.resize(light * light, _GRID, interpolation=cv2.INTER_AREA)
    spread = np.sqrt(np.maximum(square - mean * mean, 0))
    colour = cv2.resize(np.ascontiguousarray(tones[..., 1:]), (2, 4), interpolation=cv2.INTER_AREA)
    middle: Array = light[16:104, 16:96]
    steps = [np.abs(np.diff(middle, axis=axis)).mean() for axis in (0, 1)]
    detail = []
    for _ in range(3):
        detail.append(cv2.Laplacian(middle, cv2.CV_32F).var())
        half = cv2.resize(middle, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        middle = np.asarray(half, np.float32)
    parts = (mean / 255, np.log1p(spread), (colour - 128) / 64, np.log1p([*detail, *steps]))
    return np.concatenate([np.ravel(part) for part in parts]).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Recogniser:
    """Judges faces of one embedder.

    `centres` (p, d): unit rows where spoilt faces go. The features of a face, the logarithm of its
    embedding's length, the cosines to the centres and `describe_crop`, less `mean` and divided by
    `scale` (f,), go through `first` (f + 1, h), a hyperbolic tangent and `second` (h + 1, 1 + m);
    the last rows are added. Of the answers the first is the chance's logit, the others say which of
    `looks` (m,) the crop looks like.
    """

    centres: Array
    mean: Array
    scale: Array
    first: Array
    second: Array
    looks: tuple[Flaw, ...]

    @staticmethod
    def place(model: Path) -> Path:
        """The file that lies beside a model file."""
        return model.with_suffix(".recognisability.npz")

    @classmethod
    def beside(cls, model: Path, digest: str) -> Self | None:
        """What lies beside a model file of this sha256; None where nothing does.

        Raises:
            ModelError: it is damaged or of another network.
        """
        file = cls.place(model)
        if not file.is_file():
            return None
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                names = ("centres", "mean", "scale", "first", "second")
                arrays = {name: stored[name].astype(np.float32) for name in names}
                of, looks = str(stored["model"]), tuple(Flaw(v) for v in stored["looks"].tolist())
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise ModelError(f"{file} holds no measure of recognisability; reinstall it") from error
        if of != digest:
            raise ModelError(
                f"{file} was fitted to another network than {model}; reinstall both, or fit it anew"
            )
        made = cls(looks=looks, **arrays)
        if not made._sound():
            raise ModelError(f"{file} holds arrays that do not fit one another; reinstall it")
        return made

    def save(self, model: Path, digest: str) -> Path:
        """Write what `beside` reads; returns the file."""
        file = self.place(model)
        np.savez(
            file,
            model=np.array(digest),
            looks=np.array([str(flaw) for flaw in self.looks]),
            centres=self.centres,
            mean=self.mean,
            scale=self.scale,
            first=self.first,
            second=self.second,
        )
        return file

    def features(self, crops: Image, rows: Array, lengths: Array) -> Array:
        """(n, f) of crops (n, 112, 112, 3), their embeddings (n, d) and the lengths (n,) that those
        had before they were made unit rows."""
        crop = np.stack([describe_crop(c) for c in crops])
        length = np.log(np.maximum(lengths, 1e-6))[:, None]
        return np.concatenate([length, rows @ self.centres.T, crop], axis=1).astype(np.float32)

    def __call__(
        self, crops: Image, faces: list[Face], rows: Array, lengths: Array
    ) -> list[Verdict]:
        """A verdict on each of n faces; the other arguments as for `features`."""
        if not faces:
            return []
        answers = self.answers(self.features(crops, rows, lengths))
        chances = 1.0 / (1.0 + np.exp(-np.clip(answers[:, 0], -60.0, 60.0)))
        likeliest = answers[:, 1:].argmax(axis=1)
        return [
            Verdict.of(float(chance), face, self.looks[look])
            for chance, face, look in zip(chances, faces, likeliest, strict=True)
        ]

    def answers(self, features: Array) -> Array:
        """(n, 1 + m) of features (n, f)."""
        inner = np.tanh((features - self.mean) / self.scale @ self.first[:-1] + self.first[-1])
        return np.asarray(inner @ self.second[:-1] + self.second[-1])

    def _sound(self) -> bool:
        count, hidden = len(self.mean), self.first.shape[-1]
        return (
            self.centres.ndim == 2
            and self.mean.shape == self.scale.shape == (count,)
            and self.first.shape == (count + 1, hidden)
            and self.second.shape == (hidden + 1, 1 + len(self.looks))
            and len(self.looks) > 0
            and all(np.isfinite(a).all() for a in (self.centres, self.mean, self.first))
            and bool(np.isfinite(self.second).all() and (self.scale > 0).all())
        )
