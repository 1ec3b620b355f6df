"""`edgeface sightings`: who was there, and the crops that were kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeface.cli.options import GalleryFile, existing, seconds
from edgeface.cli.output import Json, print_rows, say
from edgeface.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from edgeface.gallery import Gallery
    from edgeface.sightings import Sightings

PAGE = 200  # rows read at a time
COLUMNS = ("id", "first", "last", "camera", "name", "kind", "similarity", "image")


def sightings(
    gallery: GalleryFile,
    person: Annotated[str | None, typer.Option(help="Only those of this person.")] = None,
    camera: Annotated[str | None, typer.Option(help="Only those of this camera.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="known, stranger, ignored, or unknown for nobody.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="Only the last 12h, 30d, 2w.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 50,
    as_json: Json = False,
) -> None:
    """List who was there, newest first.

    `edgeface identify --sightings` and `edgeface serve` keep them.
    """
    from edgeface.gallery import Gallery

    with Gallery.open(existing(gallery), create=False) as people, kept(people) as store:
        who = None if person is None else people.person(person).id
        begin = None if since is None else time.time() - seconds(since, "--since")
        rows = _rows(store, limit, person=who, camera=camera, kind=kind, since=begin)
        print_rows(rows, as_json, columns=COLUMNS)


def _rows(store: Sightings, limit: int, **which: Any) -> Iterator[dict[str, Any]]:
    cursor = None
    while limit > 0:
        page = store.rows(cursor=cursor, limit=min(limit, PAGE), **which)
        yield from (row.to_dict() for row in page.rows)
        limit, cursor = limit - len(page.rows), page.cursor
        if cursor is None:
            return


def show(
    gallery: GalleryFile,
    name: str,
    out: Annotated[Path, typer.Option(help="Where the picture is written (.jpg, .png).")],
) -> None:
    """Write a contact sheet of a person.

    Their samples that have a picture come first, then what cameras kept of them, newest first.
    """
    from edgeface import draw, images
    from edgeface.gallery import Gallery
    from edgeface.sightings import Sightings

    with Gallery.open(existing(gallery), create=False) as people:
        who = people.person(name)
        crops = [s.crop for s in people.samples(name) if s.crop]
        if Sightings.kept(people):
            with kept(people) as store:
                rows = store.rows(person=who.id, limit=PAGE).rows
                crops += [crop for row in rows if (crop := store.crop(row.id)) is not None]
    if not crops:
        raise DataError(
            f"no picture of {name!r} was kept: samples keep none unless a camera made them, and "
            "crops expire"
        )
    draw.save(out, draw.sheet([images.read(crop) for crop in crops]))
    say(f"pictures of {name} written to {out}: {len(crops)}")


def follow_gallery(people: Gallery) -> None:
    """Erase what was seen of people whom the gallery has forgotten, seal it if that was
    encrypted."""
    from edgeface.sightings import Sightings

    if Sightings.kept(people):
        Sightings.open(people).close()  # which does it when it opens


def kept(people: Gallery) -> Sightings:
    """The sightings beside a gallery, which must be there."""
    from edgeface.sightings import Sightings

    if not Sightings.kept(people):
        raise ArgumentError(
            f"no sightings are kept beside {people.place}; keep them with: edgeface identify "
            "--video … --sightings"
        )
    return Sightings.open(people)
