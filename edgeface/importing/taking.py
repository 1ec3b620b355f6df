"""Taking people over: the fit pictures of each, those that are there already left out."""

from __future__ import annotations

from dataclasses import dataclass

from edgeface.enrolment import Chosen, FacePolicy, check_fit, one_face, store
from edgeface.errors import ImageError
from edgeface.gallery import Gallery
from edgeface.gallery.records import check_name
from edgeface.identify import Identifier
from edgeface.importing.records import Picture
from edgeface.types import Array, Face

# Cosine from which a face is taken for one that is in the gallery: the same picture gives 1 but for
# what runtimes and processors round (below 1e-4), the next frame of a video .99 at most as a rule.
SAME = 0.999


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of the pictures of `name`: how many were `added`, how many were `there` already
    (by whatever name those are known now), and which were `refused` and why, as (label, reason)."""

    name: str
    added: int
    there: int
    refused: tuple[tuple[str, str], ...]


def take(
    identifier: Identifier,
    name: str,
    pictures: tuple[Picture, ...],
    *,
    policy: FacePolicy = "require_one",
    accept_poor: bool = False,
) -> Taken:
    """Enrol a person from pictures of another program.

    A bad picture is left out and the others are taken. A face that is in the gallery already is not
    added again, whoever it belongs to by now: taking people over again changes nothing, and undoes
    no rename, merge or split. The person's faces are added in one change.

    Raises:
        GalleryError: the name is not acceptable, or the gallery cannot be written.
    """
    check_name(name)
    refused, there = list[tuple[str, str]](), 0
    chosen, sources = list[Face](), list[str]()
    for picture in pictures:
        try:
            face = one_face(identifier.describer, picture.get(), policy, picture.label)
            if not accept_poor:
                check_fit(face, picture.label)
        except ImageError as error:
            refused.append((picture.label, str(error)))
            continue
        assert face.embedding is not None
        if _is_there(identifier.gallery, chosen, face.embedding):
            there += 1
        else:
            chosen.append(face)
            sources.append(picture.label)
    if chosen:
        store(identifier.gallery, name, Chosen(chosen, sources, tuple(refused)))
    return Taken(name, len(chosen), there, tuple(refused))


def _is_there(gallery: Gallery, chosen: list[Face], row: Array) -> bool:
    if any(f.embedding is not None and float(f.embedding @ row) >= SAME for f in chosen):
        return True
    return any(match.similarity >= SAME for match in gallery.search(row, 1))
