"""`edgeface identify`: who is in pictures, a file, or before a camera."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeface.cli.failures import Passed
from edgeface.cli.options import (
    SIDE,
    Embedding,
    GalleryOption,
    Limit,
    MaxSide,
    RuntimeOption,
    Threads,
    existing,
    opened,
)
from edgeface.cli.output import Json, print_rows
from edgeface.cli.progress import each
from edgeface.errors import ArgumentError

if TYPE_CHECKING:
    from edgeface.identify import Identifier

COLUMNS = ("picture", "status", "name", "similarity", "box", "reason")
NO_FACE = "no_face"  # the status of a picture in which nobody was found


def identify(
    pictures: Annotated[list[str] | None, typer.Argument(help="Pictures to look at.")] = None,
    videos: Annotated[
        list[str] | None,
        typer.Option(
            "--video", metavar="[NAME=]SOURCE", help="0, cam0, /dev/video0, file, URL or folder."
        ),
    ] = None,
    gallery: GalleryOption = None,
    out: Annotated[Path | None, typer.Option(help="Write an overlay video (.mp4).")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw similarities and weights per track (.png).")
    ] = None,
    display: Annotated[
        bool, typer.Option("--display", help="Show the overlay in a window.")
    ] = False,
    every: Annotated[int, typer.Option(min=1, help="Process each n-th frame only.")] = 1,
    retries: Annotated[
        int | None, typer.Option(min=0, help="Reconnects of a camera; default for ever.")
    ] = None,
    threshold: Limit = None,
    learn: Annotated[
        bool,
        typer.Option("--learn", help="Let the gallery learn: strangers become numbered people."),
    ] = False,
    keep: Annotated[
        bool, typer.Option("--sightings", help="Keep who was there beside the gallery.")
    ] = False,
    submodels: Annotated[
        Path | None, typer.Option(help="Submodel bank for faces the gallery does not know.")
    ] = None,
    model: Embedding = "mobilefacenet",
    runtime: RuntimeOption = "auto",
    threads: Threads = 2,
    max_side: MaxSide = SIDE,
    as_json: Json = False,
) -> None:
    """Say who is in pictures or in a video.

    A line per face of a picture, a line per event of a video.
    """
    if bool(videos) == bool(pictures):
        raise ArgumentError("give either pictures or --video SOURCE")
    if not videos:
        of_video = {
            "--out": out is not None,
            "--plot": plot is not None,
            "--display": display,
            "--every": every != 1,
            "--retries": retries is not None,
            "--learn": learn,
            "--sightings": keep,
        }
        if unused := [option for option, given in of_video.items() if given]:
            raise ArgumentError(f"{', '.join(unused)}: only for a video; use --video SOURCE")
    if keep and gallery is None:
        raise ArgumentError("--sightings are kept beside a gallery: name one with --gallery")
    of_one = {"--out": out is not None, "--plot": plot is not None, "--display": display}
    if len(videos or ()) > 1 and (unused := [option for option, given in of_one.items() if given]):
        raise ArgumentError(f"{', '.join(unused)}: only for one --video at a time")
    if gallery is not None and not learn:  # who learns may begin with nobody
        existing(gallery)
    if display:
        from edgeface.draw import check_display

        check_display()
    options = {"model": model, "runtime": runtime, "threads": threads, "threshold": threshold}
    options["max_side"] = max_side
    with opened(gallery, learn=learn, submodels=submodels, **options) as identifier:
        if pictures:
            passed = Passed()
            rows = _faces(identifier, pictures, passed)
            print_rows(rows, as_json, columns=COLUMNS)
            passed.finish()
        elif videos:
            from edgeface.cli.watching import kept, watch, watch_several

            _patience(identifier, videos, retries)
            with kept(identifier, keep) as store:
                if len(videos) > 1:
                    watch_several(identifier, videos, every, store, as_json)
                else:
                    watch(identifier, videos[0], out, plot, display, every, store, as_json)


def _faces(
    identifier: Identifier, pictures: Sequence[str], passed: Passed
) -> Iterator[dict[str, Any]]:
    """A row per face, and one for a picture without any; bad pictures are told of."""
    for picture in each(pictures, "pictures"):
        with passed.over(picture):
            found = identifier.identify(picture)
            for sighting in found:
                yield {"picture": picture, **sighting.to_dict()}
            if not found:
                yield {"picture": picture, **_nobody(identifier)}


def _nobody(identifier: Identifier) -> dict[str, Any]:
    """The row of a picture without faces: the fields of any other, empty."""
    from edgeface.types import Decision, Status

    nothing = float("nan")
    decision = Decision(Status.UNKNOWN, None, None, nothing, nothing, identifier.threshold)
    empty = dict.fromkeys(("track", "box", "landmarks", "score", "quality", "recognisability"))
    return empty | decision.to_dict() | {"status": NO_FACE}


def _patience(identifier: Identifier, videos: Sequence[str], retries: int | None) -> None:
    """How often cameras are opened again."""
    from edgeface import video
    from edgeface.cameras import named

    if retries is None:
        return
    files = [source for _, source in map(named, videos) if not video.is_live(source)]
    if files:
        raise ArgumentError(f"--retries is for cameras and streams; {files[0]} is read once")
    options = replace(identifier.settings.live, retries=retries)
    identifier.settings = replace(identifier.settings, live=options)
