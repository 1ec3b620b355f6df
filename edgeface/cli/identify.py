"""`edgeface identify`: who is in pictures, a file, or before a camera."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeface.cli.failures import ENVIRONMENT, Passed
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
from edgeface.cli.output import Json, as_lines, emit, print_rows, readable, to_json
from edgeface.cli.progress import Progress, each
from edgeface.errors import ArgumentError

if TYPE_CHECKING:
    from edgeface.identify import Identifier
    from edgeface.sightings import Recorder
    from edgeface.trace import Trace
    from edgeface.types import Event, Frame, Sighting

LIVE_FPS = 10.0  # of the overlay file of a source that has no rate of its own
NO_FACE = "no_face"  # the status of a picture in which nobody was found


def identify(
    pictures: Annotated[list[str] | None, typer.Argument(help="Pictures to look at.")] = None,
    source: Annotated[
        str | None, typer.Option("--video", help="0, cam0, /dev/video0, file, URL or folder.")
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
    if (source is None) == (not pictures):
        raise ArgumentError("give either pictures or --video SOURCE")
    if source is None:
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
            print_rows(rows, as_json, columns=("picture", "status", "name", "similarity", "box"))
            passed.finish()
        elif source is not None:
            _watch(identifier, source, out, plot, display, every, retries, keep, as_json)


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
    empty = dict.fromkeys(("track", "box", "landmarks", "score", "quality"))
    return empty | decision.to_dict() | {"status": NO_FACE}


def _watch(
    identifier: Identifier,
    source: str,
    out: Path | None,
    plot: Path | None,
    display: bool,
    every: int,
    retries: int | None,
    keep: bool,
    as_json: bool,
) -> None:
    from edgeface import draw, video
    from edgeface.sinks import Sinks
    from edgeface.sinks.overlay import Overlay
    from edgeface.stopping import Stop
    from edgeface.trace import Trace

    lines = as_lines(as_json)
    live = video.is_live(source)
    if retries is not None and not live:
        raise ArgumentError(f"--retries is for cameras and streams; {source} is read once")
    fps = LIVE_FPS if live else video.rate(source)
    with ExitStack() as stack:
        kept = [_recorder(identifier, stack)] if keep else []
        sinks = stack.enter_context(Sinks([*kept, *([Overlay(out, fps)] if out else [])]))
        stop = stack.enter_context(Stop())
        line = stack.enter_context(Progress("frames", video.length(source) // every))

        def on_frame(frame: Frame, sightings: list[Sighting]) -> None:
            if display and not draw.show(draw.overlay(frame.image, sightings)):
                stop.set()
            line.step()

        trace = Trace() if plot is not None else None
        if plot is not None and trace is not None:  # whatever ends the watch
            stack.callback(_draw, identifier, trace, plot)
        options = video.LiveOptions(retries=retries)
        events = identifier.watch(
            source,
            every=every,
            live=options,
            on_frame=on_frame,
            trace=trace,
            sinks=[sinks],
            should_stop=stop,
        )
        with closing(events):
            for event in events:
                emit(to_json(event.to_dict()) if lines else _sentence(event))
    if sinks.failures:  # already logged
        raise typer.Exit(ENVIRONMENT)
    if stop.signal is not None and not live:  # a camera has no other end, of a file the rest lacks
        raise typer.Exit(128 + stop.signal)


def _recorder(identifier: Identifier, stack: ExitStack) -> Recorder:
    """A sink that keeps who was there, first in line: what is printed is then in the log."""
    from edgeface.sightings import Recorder, Sightings

    return Recorder(stack.enter_context(Sightings.open(identifier.gallery)))


def _draw(identifier: Identifier, trace: Trace, path: Path) -> None:
    from edgeface.draw import save
    from edgeface.plot import plot

    save(path, plot(identifier.explain(trace), left_out=trace.left_out))


def _sentence(event: Event) -> str:
    d = event.decision
    who = readable(d.name) if d.name else str(d.status).replace("_", " ")
    number = (
        f"{d.similarity:.2f} (needs {d.threshold.value:.2f})"
        if d.similarity == d.similarity
        else ""
    )
    return f"{event.time:8.2f} s  track {event.track:<4} {event.kind:<11} {who:<24} {number}"
