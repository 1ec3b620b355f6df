"""`edgeface identify --video`: one source, or several at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgeface.cli.failures import ENVIRONMENT
from edgeface.cli.output import as_lines, emit, readable, to_json
from edgeface.cli.progress import Progress

if TYPE_CHECKING:
    from edgeface.identify import Identifier
    from edgeface.sightings import Sightings
    from edgeface.sinks import Sink
    from edgeface.stopping import Stop
    from edgeface.trace import Trace
    from edgeface.types import Frame, Sighting

LIVE_FPS = 10.0  # of the overlay file of a source that has no rate of its own


@contextmanager
def kept(identifier: Identifier, keep: bool) -> Iterator[Sightings | None]:
    """Where sightings are kept, if they are."""
    from edgeface.sightings import Sightings

    if not keep:
        yield None
        return
    with Sightings.open(identifier.gallery) as store:
        yield store


def watch(
    identifier: Identifier,
    text: str,
    out: Path | None,
    plot: Path | None,
    display: bool,
    every: int,
    store: Sightings | None,
    as_json: bool,
) -> None:
    """Follow one source. With `store`, what it tells is written there first."""
    from edgeface import draw, video
    from edgeface.cameras import named, news
    from edgeface.sinks import Sinks
    from edgeface.sinks.overlay import Overlay
    from edgeface.stopping import Stop
    from edgeface.trace import Trace

    name, source = named(text)
    lines, live = as_lines(as_json), video.is_live(source)
    fps = LIVE_FPS if live else video.rate(source)
    with ExitStack() as stack:
        first: list[Sink] = [] if store is None else [_recorder(store)]
        sinks = stack.enter_context(Sinks([*first, *([Overlay(out, fps)] if out else [])]))
        stop = stack.enter_context(Stop())
        line = stack.enter_context(Progress("frames", video.length(source) // every))

        def on_frame(frame: Frame, sightings: list[Sighting]) -> None:
            if display and not draw.show(draw.overlay(frame.image, sightings)):
                stop.set()
            line.step()

        def on_change(link: video.Link) -> None:
            if told := news(link, name or video.redact(source)):
                if store is not None:
                    store.log(told)
                _print(told, lines)

        trace = Trace() if plot is not None else None
        if plot is not None and trace is not None:  # whatever ends the watch
            stack.callback(_draw, identifier, trace, plot)
        events = identifier.watch(
            source,
            name=name,
            every=every,
            on_frame=on_frame,
            trace=trace,
            sinks=[sinks],
            should_stop=stop,
            link=video.Link(on_change),
        )
        with closing(events):
            for event in events:
                _print(event.to_dict(), lines)
    if sinks.failures:  # already logged
        raise typer.Exit(ENVIRONMENT)
    _end(stop, [source])


def watch_several(
    identifier: Identifier,
    videos: Sequence[str],
    every: int,
    store: Sightings | None,
    as_json: bool,
) -> None:
    """Follow several sources at once. With `store`, what they tell is written there first."""
    from edgeface import cameras
    from edgeface.cameras import CameraSpec, label, named
    from edgeface.stopping import Stop

    found = [(name or label(source), source) for name, source in map(named, videos)]
    specs = [CameraSpec(name, source, every) for name, source in found]
    with Stop() as stop:
        events = cameras.watch(
            identifier,
            specs,
            sinks=None if store is None else lambda name: [_recorder(store)],
            tell=None if store is None else store.log,
            should_stop=stop,
        )
        with closing(events):
            for event in events:
                _print(event, as_lines(as_json), several=True)
    _end(stop, [source for _, source in found])


def _end(stop: Stop, sources: Sequence[str]) -> None:
    """The exit code of a signal: a camera has no other end, of a file the rest is missing."""
    from edgeface import video

    if stop.signal is not None and not all(map(video.is_live, sources)):
        raise typer.Exit(128 + stop.signal)


def _recorder(store: Sightings) -> Sink:
    from edgeface.sightings import Recorder

    return Recorder(store)


def _draw(identifier: Identifier, trace: Trace, path: Path) -> None:
    from edgeface.draw import save
    from edgeface.plot import plot

    save(path, plot(identifier.explain(trace), left_out=trace.left_out))


def _print(event: dict[str, Any], lines: bool, *, several: bool = False) -> None:
    if lines:
        emit(to_json(event))
        return
    start = f"{readable(event['camera'])}  " if several else ""
    if "track" not in event:
        emit(f"{start}{event['ts']}  {event['event']}  {readable(event['reason'] or '')}".rstrip())
        return
    status = " ".join(filter(None, (event["status"], event["reason"]))).replace("_", " ")
    who = readable(event["name"] or status)
    number = ""
    if event["similarity"] is not None:
        number = f"{event['similarity']:.2f} (needs {event['threshold']:.2f})"
    time, track = f"{event['time']:8.2f} s", f"track {event['track']:<4}"
    emit(f"{start}{time}  {track} {event['event']:<11} {who:<24} {number}")
