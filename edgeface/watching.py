"""A watch: the frames of a source through a follower into events and sinks, however it ends."""

from __future__ import annotations

from collections.abc import Callable, Generator

from edgeface.errors import ImageError, SourceError
from edgeface.follow import Follower
from edgeface.sinks import Sinks
from edgeface.types import Event, Frame, Sighting


def watch(
    follower: Follower,
    frames: Generator[Frame],
    every: int,
    on_frame: Callable[[Frame, list[Sighting]], None] | None,
    sinks: Sinks,
) -> Generator[Event]:
    """The events of every n-th of `frames`. At its end, by an error of the source or by `close`
    too, all tracks are lost and the source is closed; see `Identifier.watch`."""
    failure: SourceError | ImageError | None = None
    try:
        for frame in frames:
            if frame.index % every:
                continue
            for event in follower.step(frame):
                sinks.publish(event)
                yield event
            sinks.show(frame, follower.sightings)
            if on_frame is not None:
                on_frame(frame, follower.sightings)
    except (SourceError, ImageError) as error:
        failure = error
    finally:
        frames.close()
        farewells = follower.finish()
        for event in farewells:
            sinks.publish(event)
    yield from farewells
    if failure is not None:
        raise failure
