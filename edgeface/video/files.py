"""Frames from a camera, a file, a stream or a folder of pictures.

A file is decoded frame by frame and never dropped. A live source has a reader thread that keeps
only the newest frame, is watched for stalls (`VideoCapture.read` can hang for ever after a network
drop) and reconnects with growing pauses.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import cv2
import numpy as np

from edgeface import images
from edgeface.errors import CameraError, SourceError
from edgeface.types import Frame, Image

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """`open_timeout`, `stall`: seconds until an open or a silent source is given up; `retries`:
    reconnects in a row before an error, None for ever; `pause` grows to `pause_max` seconds."""

    open_timeout: float = 5.0
    stall: float = 5.0
    retries: int | None = None
    pause: float = 1.0
    pause_max: float = 30.0


def frames(
    source: str | int | Path, *, live: LiveOptions | None = None, folder_fps: float = 25.0
) -> Iterator[Frame]:
    """Iterate the frames of a source.

    Args:
        source: camera index, `cam0`, `/dev/video0`, a video file, a URL, or a folder of pictures.
        live: how cameras and URLs are watched.
        folder_fps: frames per second that a folder of pictures stands for.

    Yields:
        frames with media time (file, folder) or seconds since the first frame on the monotonic
        clock (live).

    Raises:
        SourceError: the source cannot be opened, or a file ends before it says it does.
    """
    text = str(source)
    camera = camera_index(text)
    if camera is not None or "://" in text:
        yield from _live(camera if camera is not None else text, live or LiveOptions())
    elif Path(text).is_dir():
        yield from _folder(Path(text), folder_fps)
    elif Path(text).is_file():
        yield from _file(Path(text))
    else:
        raise SourceError(
            f"{text} is no file, folder, camera (0, cam0, /dev/video0) or URL; check the spelling"
        )


def camera_index(source: str) -> int | None:
    """The index that `0`, `cam0` or `/dev/video0` names, else None."""
    found = re.fullmatch(r"(?:cam|/dev/video)?(\d{1,3})", source)
    return int(found.group(1)) if found else None


def is_live(source: str | int | Path) -> bool:
    """Whether the source is a camera or a URL, so that it has no known end."""
    return camera_index(str(source)) is not None or "://" in str(source)


def length(source: str | int | Path) -> int:
    """Number of frames a file or folder announces, 0 when unknown."""
    path = Path(str(source))
    if is_live(source) or not path.exists():
        return 0
    if path.is_dir():
        return len(_pictures(path))
    capture = cv2.VideoCapture(str(path))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    return max(count, 0)


def rate(source: str | int | Path) -> float:
    """Frames per second a file announces; 25 when it does not tell."""
    capture = cv2.VideoCapture(str(source))
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    capture.release()
    return fps if 0.0 < fps < 1000.0 else 25.0


def redact(url: str) -> str:
    """A URL without its user and password, for logs and errors."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rsplit("@", 1)[1]))


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in images.SUFFIXES)


def _folder(folder: Path, fps: float) -> Iterator[Frame]:
    files = _pictures(folder)
    if not files:
        kinds = " ".join(sorted(images.SUFFIXES))
        raise SourceError(f"folder {folder} holds no pictures ({kinds})")
    for index, file in enumerate(files):
        yield Frame(images.read(file), index / fps, index)


def _file(path: Path) -> Iterator[Frame]:
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise SourceError(
                f"{path} is not a video OpenCV can decode, or it is empty or damaged; "
                "convert it with: ffmpeg -i IN -c:v libx264 OUT.mp4"
            )
        announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        fps = capture.get(cv2.CAP_PROP_FPS) or 25.0
        index, last = 0, -1.0
        while True:
            ok, image = capture.read()
            if not ok:
                break
            stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0
            # Some containers give no or repeated timestamps; time must go on all the same.
            last = stamp if stamp > last else last + 1.0 / fps
            yield Frame(np.asarray(image, np.uint8), max(last, 0.0), index)
            index += 1
    finally:
        capture.release()
    if index < announced - 1:
        message = f"{path} ends after {index} of {announced} frames: it is damaged or cut short"
        # Containers estimate their length; a few frames off is their error, not the file's.
        if index < 0.9 * announced - 2:
            raise SourceError(message + "; copy it again. The events so far stand")
        log.warning("%s", message)


class _Reader:
    """One open capture and the thread that empties it. Abandoned, never joined, when it hangs."""

    def __init__(self, source: int | str, options: LiveOptions) -> None:
        self._source, self._options = source, options
        self._ready = threading.Condition()
        self._slot: tuple[Image, float] | None = None
        self._error: str | None = None
        self._stop = False
        self.dropped = 0
        threading.Thread(target=self._loop, name="edgeface-reader", daemon=True).start()

    def _loop(self) -> None:
        capture = self._open()
        error = "cannot be opened" if not capture.isOpened() else "ended"
        while capture.isOpened() and not self._stop:
            ok, image = capture.read()
            if not ok:
                break
            with self._ready:
                self.dropped += self._slot is not None
                self._slot = (np.asarray(image, np.uint8), time.monotonic())
                self._ready.notify()
        capture.release()
        with self._ready:
            self._error = error
            self._ready.notify()

    def _open(self) -> cv2.VideoCapture:
        if isinstance(self._source, int):
            capture = cv2.VideoCapture(self._source)
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
            return capture
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(self._options.open_timeout * 1000)]
        limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(self._options.stall * 1000)]
        return cv2.VideoCapture(self._source, cv2.CAP_FFMPEG, limits)

    def newest(self, timeout: float) -> tuple[Image, float]:
        """The newest frame not yet taken and its monotonic time.

        Raises:
            SourceError: the source ended, cannot be opened, or was silent for `timeout` seconds.
        """
        with self._ready:
            self._ready.wait_for(lambda: self._slot is not None or self._error, timeout)
            if self._slot is not None:
                taken, self._slot = self._slot, None
                return taken
            raise SourceError(self._error or f"sent no frame for {timeout:g} s")

    def close(self) -> None:
        self._stop = True


def _live(
    source: int | str, options: LiveOptions, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Frame]:
    name = f"camera {source}" if isinstance(source, int) else redact(source)
    start, index, failures = None, 0, 0
    while True:
        reader = _Reader(source, options)
        try:
            while True:
                timeout = options.stall + (options.open_timeout if start is None else 0.0)
                image, stamp = reader.newest(timeout)
                if failures:
                    log.warning("%s is back", name)
                failures = 0
                start = stamp if start is None else start
                yield Frame(image, stamp - start, index)
                index += 1
        except SourceError as error:
            if start is None:
                hint = (
                    "list cameras with: edgeface doctor"
                    if isinstance(source, int)
                    else "check the address, the network and the password"
                )
                raise CameraError(f"{name} {error}; {hint}") from None
            failures += 1
            if options.retries is not None and failures > options.retries:
                raise CameraError(f"{name} {error}; gave up after {failures - 1} retries") from None
            pause = min(options.pause * 2 ** (failures - 1), options.pause_max)
            log.warning("%s %s; trying again in %.1f s", name, error, pause)
            sleep(pause * random.uniform(0.8, 1.2))
        finally:
            reader.close()
