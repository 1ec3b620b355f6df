"""`edgeface backup` and `edgeface restore`: a service in one file, and back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeface.cli.options import GalleryOption, existing
from edgeface.cli.output import Json, print_rows, say

if TYPE_CHECKING:
    from edgeface.backup import Manifest


def backup(
    file: Annotated[Path, typer.Argument(help="The archive; an earlier one is replaced.")],
    settings: Annotated[
        Path | None, typer.Argument(metavar="[SETTINGS.toml]", help="Settings of the service.")
    ] = None,
    gallery: GalleryOption = None,
    as_json: Json = False,
) -> None:
    """Copy gallery, sightings and settings into one file.

    The service may go on meanwhile: all is of one moment.
    """
    from edgeface.serve.config import place
    from edgeface.serve.files import back_up_service

    existing(place(settings, os.environ, gallery)[0])
    _print(back_up_service(file, settings, os.environ, gallery), as_json)


def restore(
    file: Annotated[Path, typer.Argument(help="What `edgeface backup` wrote.")],
    folder: Annotated[Path, typer.Argument(help="Where the files go; made if missing.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Files that are there may be replaced.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put a backup back, here or on another machine.

    The archive is checked before anything is touched.
    """
    from edgeface.backup import Role
    from edgeface.backup import restore as put_back

    manifest = put_back(file, folder, replace=replace)
    _print(manifest, as_json)
    gallery, settings = manifest.of(Role.GALLERY), manifest.of(Role.SETTINGS)
    if gallery is not None:
        named = "" if settings is None else f"{folder / settings.name} "
        say(f"start the service with: edgeface serve {named}--gallery {folder / gallery.name}")


def _print(manifest: Manifest, as_json: bool) -> None:
    rows = [
        {"file": part.name, "role": str(part.role), "bytes": part.bytes, "sha256": part.sha256}
        for part in manifest.parts
    ]
    print_rows(rows, as_json, columns=("file", "role", "bytes"))
    say(f"{manifest.people} people, {manifest.sightings} sightings, of {manifest.made}")
