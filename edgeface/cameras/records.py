"""What a camera is, and how it stands with it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from edgeface import video
from edgeface.errors import ArgumentError
from edgeface.types import Image, Sighting, timestamp

NAME_LENGTH = 64


@dataclass(frozen=True, slots=True)
class CameraSpec:
    """A camera to be watched: its `name` in events, its `source` (see `video.frames`), and whether
    every frame or each n-th is processed. A file with `repeat` is played at its own pace, over and
    over, as a camera would be."""

    name: str
    source: str
    every: int = 1
    repeat: bool = False

    def __post_init__(self) -> None:
        name = self.name
        if not name.strip() or len(name) > NAME_LENGTH or not name.isprintable():
            raise ArgumentError(
                f"a camera's name is {name[:80]!r}: give 1 to {NAME_LENGTH} printable characters"
            )
        if not self.source.strip():
            raise ArgumentError(f"the camera {self.name!r} has no source: give 0, a URL or a file")
        if self.every < 1:
            raise ArgumentError(f"every is {self.every}: process each n-th frame, n 1 or more")
        if self.repeat and video.is_live(self.source):
            raise ArgumentError(f"{video.redact(self.source)} has no end that could be repeated")


def named(text: str) -> tuple[str | None, str]:
    """The name, if there is one, and the source that `NAME=SOURCE` or `SOURCE` means. What is there
    as a file, and an address with a `=` in it, is a source."""
    name, equals, source = text.partition("=")
    if not name.strip() or not equals or "://" in name or os.path.lexists(text):
        return None, text
    return name, source


def label(source: str) -> str:
    """What a source without a name is called as one of several: its address without the password,
    the end of it if it is long."""
    text = video.redact(source)
    return text if len(text) <= NAME_LENGTH else "…" + text[1 - NAME_LENGTH :]


class State(StrEnum):
    """How it stands with a camera."""

    CONNECTING = "connecting"  # no frame yet
    RUNNING = "running"
    LOST = "lost"  # it was there, and is tried again
    FAILED = "failed"  # `error` says why; it is tried again later
    ENDED = "ended"  # a file that was read to its end
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class CameraState:
    """A camera at one moment: `since` when (UTC) it is in this `state`, `fps` processed per second,
    `frames` processed, `dropped` because nobody took them in time, `size` (width, height) px."""

    name: str
    source: str  # without its password
    state: State
    since: datetime
    error: str | None
    fps: float
    frames: int
    dropped: int
    reconnects: int
    size: tuple[int, int] | None
    last_frame: datetime | None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {
            "name": self.name,
            "source": self.source,
            "state": str(self.state),
            "since": timestamp(self.since),
            "error": self.error,
            "fps": round(self.fps, 1),
            "frames": self.frames,
            "dropped": self.dropped,
            "reconnects": self.reconnects,
            "size": None if self.size is None else list(self.size),
            "last_frame": None if self.last_frame is None else timestamp(self.last_frame),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The newest processed frame of a camera: `image` (H, W, 3) uint8 BGR, who is in it, and its
    `number`, which grows by one a frame."""

    image: Image
    at: datetime
    sightings: tuple[Sighting, ...]
    number: int
