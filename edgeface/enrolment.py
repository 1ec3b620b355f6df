"""Which faces of the pictures one is given stand for a person."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgeface import images
from edgeface.closing import Closing
from edgeface.cohort import Progress
from edgeface.describe import Describer
from edgeface.detect import SURE
from edgeface.errors import ArgumentError, GalleryError, ImageError
from edgeface.gallery import Gallery, Kind, Person
from edgeface.gallery.records import check_name
from edgeface.recognisability import ENROLLED
from edgeface.types import Face, Flaw

OnBad = Callable[[ImageError], object]
FacePolicy = Literal["require_one", "largest", "skip"]
GROUP_SECONDS = 1.0  # how long somebody may wait to be committed together with others


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What an enrolment did: the `person`, how many faces were `added`, which sources were not and
    why, as (source, reason)."""

    person: Person
    added: int
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The `faces` that were chosen, each with the name of its picture in `sources`, and which
    pictures were not and why, as (source, reason)."""

    faces: list[Face]
    sources: list[str]
    skipped: tuple[tuple[str, str], ...]


def one_face(
    describer: Describer, picture: images.Source, policy: FacePolicy, label: str | None = None
) -> Face:
    """The face of a picture that stands for a person; errors call the picture `label`, by default
    its path.

    Raises:
        ImageError: the picture is unreadable, or has no face or, unless `policy` is `largest`,
            several.
    """
    faces = describer(images.read(picture))
    label = _label(picture, None) if label is None else label
    if not faces:
        raise ImageError(
            f"no face found in {label}; use a sharp frontal picture, the face 60 pixels or more"
        )
    if len(faces) > 1 and policy != "largest":
        raise ImageError(
            f"{len(faces)} faces in {label}, one is needed; give a picture of one person, or "
            "choose the largest face"
        )
    # A leg, a dress or a lens taken for a face is often larger than the face.
    sure = [f for f in faces if f.score >= SURE]
    return sure[0] if sure else max(faces, key=lambda f: f.score)


# What is wrong with a face, and what to do about it.
_ADVICE = {
    Flaw.BLURRED: ("is blurred", "give a sharper picture"),
    Flaw.TOO_SMALL: ("is too small", "give a picture in which it is 60 pixels or more"),
    Flaw.COMPRESSED: ("was compressed too much", "give the original picture"),
    Flaw.DARK: ("is dark", "give a picture with more light"),
    Flaw.OVEREXPOSED: ("is overexposed", "give a picture with less light"),
    Flaw.MASKED: ("is masked or covered", "give a picture of the whole face"),
    Flaw.TURNED_AWAY: ("is turned away", "give a picture that shows it from the front"),
    Flaw.UPSIDE_DOWN: ("is upside down", "turn the picture"),
    Flaw.NO_SURE_FACE: ("is not surely one", "give a sharp frontal picture"),
}


def check_fit(face: Face, label: str) -> None:
    """Refuse a face that would lend its name to strangers.

    Raises:
        ImageError: it can hardly be recognised; the message says why and what to do.
    """
    if face.flaw is not None:
        wrong, advice = _ADVICE[face.flaw]
        raise ImageError(
            f"the face in {label} {wrong}, so that strangers may be taken for it (recognisability "
            f"{face.recognisability:.2f}, {ENROLLED:.2f} is needed); {advice}, or accept poor ones"
        )


def choose(
    describer: Describer,
    name: str,
    pictures: Iterable[images.Source],
    policy: FacePolicy,
    on_bad: OnBad | None,
    *,
    accept_poor: bool,
) -> Chosen:
    """A face from each picture of the person `name`; see `Identifier.enroll`."""
    _several(pictures)
    taken: list[Face] = []
    sources: list[str] = []
    bad: list[tuple[str, ImageError]] = []
    for index, picture in enumerate(pictures):
        label = _label(picture, index)
        try:
            face = one_face(describer, picture, policy)
            if not accept_poor:
                check_fit(face, label)
            taken.append(face)
            sources.append(label)
        except ImageError as error:
            if policy != "skip" and on_bad is None:
                raise
            bad.append((label, error))
    if not taken:
        reasons = "; ".join(str(error) for _, error in bad) or "no picture was given"
        raise ImageError(f"nothing to enrol for {name!r}: {reasons}")
    if on_bad is not None:
        for _, reason in bad:
            on_bad(reason)
    return Chosen(taken, sources, tuple((label, str(e)) for label, e in bad))


def store(gallery: Gallery, name: str, chosen: Chosen) -> Enrolment:
    """Add the faces that were chosen for a person to the gallery."""
    person = gallery.enroll(
        name,
        np.stack([f.embedding for f in chosen.faces if f.embedding is not None]),
        qualities=[f.quality for f in chosen.faces],
        sources=chosen.sources,
    )
    return Enrolment(person, len(chosen.faces), chosen.skipped)


class Enrolling(Closing):
    """Enrols many people, several with one commit: to wait for the disk takes longer than to look
    at a picture. Everybody given before the block ends, or raises, is in the gallery then; `done`
    has those who are already, in the order they were given.

    Should the process die, those of the last `GROUP_SECONDS` are missing. Nothing is locked while
    pictures are looked at.
    """

    def __init__(self, describer: Describer, gallery: Gallery) -> None:
        self.done: list[Enrolment] = []
        self._describer, self._gallery = describer, gallery
        self._waiting: list[tuple[str, Chosen]] = []
        self._since = 0.0

    def add(
        self,
        name: str,
        pictures: Iterable[images.Source],
        *,
        policy: FacePolicy = "require_one",
        accept_poor: bool = False,
        on_bad: OnBad | None = None,
    ) -> None:
        """Look at the pictures of one person; see `Identifier.enroll`. What is wrong with them is
        raised here, and nobody else is concerned."""
        name = check_name(name)
        chosen = choose(self._describer, name, pictures, policy, on_bad, accept_poor=accept_poor)
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.append((name, chosen))
        if time.monotonic() - self._since >= GROUP_SECONDS:
            self.close()

    def close(self) -> None:
        """Enrol those who wait.

        Raises:
            GalleryError: one of them could not be enrolled; the others are.
        """
        waiting, self._waiting = self._waiting, []
        failed: GalleryError | None = None
        done: list[Enrolment] = []
        try:
            with self._gallery.batch():
                for name, chosen in waiting:
                    try:
                        done.append(store(self._gallery, name, chosen))
                    except GalleryError as error:
                        failed = error
                        raise
        except GalleryError:
            if failed is None:  # nobody's fault: the commit itself
                raise
            done, failed = self._one_by_one(waiting)
        self.done += done
        if failed is not None:
            raise failed

    def _one_by_one(
        self, waiting: list[tuple[str, Chosen]]
    ) -> tuple[list[Enrolment], GalleryError | None]:
        """Who can be enrolled of a group in which somebody cannot, and the last reason."""
        done, failed = list[Enrolment](), None
        for name, chosen in waiting:
            try:
                done.append(store(self._gallery, name, chosen))
            except GalleryError as error:
                failed = error
        return done, failed


def resembling(
    describer: Describer,
    gallery: Gallery,
    cohort: Iterable[images.Source],
    progress: Progress | None,
    on_bad: OnBad | None,
) -> list[float]:
    """For each picture of a stranger the similarity of the known person they resemble most; see
    `Identifier.calibrate`."""
    _several(cohort)
    best: list[float] = []
    pictures = list(cohort)
    for done, picture in enumerate(pictures, 1):
        try:
            row = one_face(describer, picture, "largest").embedding
        except ImageError as error:
            if on_bad is None:
                raise
            on_bad(error)
        else:
            assert row is not None
            best += [m.similarity for m in gallery.search(row, 1, kind=Kind.KNOWN)]
        if progress is not None:
            progress(done, len(pictures))
    return best


def _several(pictures: object) -> None:
    """Refuse one picture where several are wanted: the letters of a name are no paths."""
    if isinstance(pictures, str | bytes | os.PathLike | np.ndarray):
        raise ArgumentError(
            f"pictures is one {type(pictures).__name__}: give a list, such as [picture]"
        )


def _label(picture: images.Source, index: int | None) -> str:
    if isinstance(picture, bytes | np.ndarray):
        return "the picture" if index is None else f"picture {index + 1}"
    # A file name need not be UTF-8; what is stored and shown has to be.
    return os.fsencode(picture).decode("utf-8", "backslashreplace")
