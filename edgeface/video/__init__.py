"""Frames from a camera, a file, a stream or a folder of pictures."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

from edgeface.errors import ArgumentError, SourceError
from edgeface.types import Frame
from edgeface.video.addresses import camera_index, is_live, redact
from edgeface.video.files import length, of_file, of_folder, rate
from edgeface.video.live import Link, LiveOptions, of_camera

__all__ = [
    "Link",
    "LiveOptions",
    "camera_index",
    "frames",
    "is_live",
    "length",
    "rate",
    "redact",
]


def frames(
    source: str | int | Path,
    *,
    name: str | None = None,
    live: LiveOptions | None = None,
    folder_fps: float = 25.0,
    should_stop: Callable[[], bool] | None = None,
    link: Link | None = None,
) -> Generator[Frame]:
    """Iterate the frames of a source.

    A file is decoded frame by frame and never dropped. A live source drops what is not taken in
    time, is watched for stalls and reconnects with growing pauses.

    Args:
        source: camera index, `cam0`, `/dev/video0`, a video file, a URL, or a folder of pictures.
        name: what the frames say that they are from; default the source, without its password.
        live: how cameras and URLs are watched.
        folder_fps: frames per second that a folder of pictures stands for.
        should_stop: asked between frames and, ten times a second, while a live source is silent;
            True ends the iteration.
        link: kept up to date with whether a live source is there.

    Yields:
        frames with media time (file, folder) or seconds since the first frame on the monotonic
        clock (live), and the time of day at which they came.

    Raises:
        CameraError: a camera or stream is not there, refuses, or stays away.
        SourceError: a file cannot be opened, or ends before it says it does.
    """
    if not folder_fps > 0:
        raise ArgumentError(f"folder_fps is {folder_fps}: give frames per second above 0")
    text, stop = str(source), should_stop or _never
    camera = camera_index(text)
    label = name or (redact(text) if camera is None else f"cam{camera}")
    if camera is not None or "://" in text:
        found = of_camera(
            text if camera is None else camera, label, live or LiveOptions(), stop, link
        )
    else:
        found = _of_path(text, label, folder_fps)
    try:
        for frame in found:
            yield frame
            if stop():
                return
    finally:
        found.close()


def _of_path(text: str, label: str, folder_fps: float) -> Generator[Frame]:
    try:
        path = Path(text)
        if path.is_dir():
            return of_folder(path, label, folder_fps)
        if path.is_file():
            return of_file(path, label)
    except (OSError, ValueError) as error:  # too long, or bytes that no name has
        raise SourceError(f"{text[:200]!r} is not the name of a file: {error}") from error
    raise SourceError(
        f"{text[:200]} is no file, folder, camera (0, cam0, /dev/video0) or URL; check the spelling"
    )


def _never() -> bool:
    return False
