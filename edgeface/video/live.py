"""Frames of a camera or a stream: the newest one, for as long as it lasts.

A reader thread keeps only the newest frame, is watched for stalls (`VideoCapture.read` can hang for
ever after a network drop) and the source is reopened with growing pauses.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from edgeface.errors import ArgumentError, CameraError
from edgeface.opencv import cv2
from edgeface.types import Frame, Image
from edgeface.video.files import Squaring
from edgeface.video.probe import Trouble, probe

log = logging.getLogger(__name__)

ASKED = 0.1  # seconds between looks at whether to stop
DECODERS = 2  # threads per stream. FFmpeg's own choice, one per core, holds a picture back for each


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """How a live source is watched."""

    open_timeout: float = 5.0  # seconds for a connection; more: slow cameras get through
    stall: float = 5.0  # seconds without a frame until it is given up; more: later reconnects
    retries: int | None = None  # attempts in a row after a failed one; None: for ever
    pause: float = 1.0  # seconds before the first of them, doubled each time
    pause_max: float = 30.0  # seconds that the pause grows to; more: a dead camera is left alone

    def __post_init__(self) -> None:
        times = (self.open_timeout, self.stall, self.pause, self.pause_max)
        if not all(0 < t < float("inf") for t in times):
            raise ArgumentError(f"{self}: times are finite seconds above 0")
        if self.retries is not None and self.retries < 0:
            raise ArgumentError(f"{self}: retries is 0 or more, or None for ever")


class Link:
    """How it stands with a live source, for whoever asks from any thread: whether it is `up`, the
    `reason` why not, how many frames nobody took in time (`dropped`), how often it came back
    (`reconnects`). `on_change` is called with the link in the thread that reads the frames: when
    the first frame came, when the source is lost, and when it is back."""

    def __init__(self, on_change: Callable[[Link], None] | None = None) -> None:
        self._on_change = on_change
        self.up = False
        self.reason = ""
        self.dropped = 0
        self.reconnects = 0
        self._came = False

    def came(self) -> None:
        """A frame is there."""
        if not self.up:
            self.up, self.reason = True, ""
            self.reconnects += self._came
            self._came = True
            self._tell()

    def lost(self, reason: str) -> None:
        """There are none for now. A source that never came cannot be lost: that is no change."""
        was, self.up, self.reason = self.up, False, reason
        if was:
            self._tell()

    def _tell(self) -> None:
        if self._on_change is not None:
            self._on_change(self)


class _Taken(NamedTuple):
    image: Image
    time: float  # monotonic, s
    at: datetime


class _Silent(Exception):  # noqa: N818 - not an error of ours, but news of the reader
    """The source ended, cannot be opened, or is silent; says which."""


class _Reader:
    """One open capture and the thread that empties it."""

    def __init__(self, source: int | str, options: LiveOptions) -> None:
        self._source, self._options = source, options
        self._ready = threading.Condition()
        self._slot: _Taken | None = None
        self._error: str | None = None
        self._stop = False
        self.dropped = 0
        # A daemon, so that a driver that never returns cannot keep the process alive.
        self._thread = threading.Thread(target=self._loop, name="edgeface-reader", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        error = "cannot be opened"
        try:
            capture = self._open()
            try:
                if capture.isOpened():
                    error = self._empty(capture)
            finally:
                capture.release()
        except (cv2.error, MemoryError) as failure:
            error = f"cannot be read ({failure})"
        with self._ready:
            self._error = error
            self._ready.notify()

    def _empty(self, capture: cv2.VideoCapture) -> str:
        square = Squaring(capture)
        while not self._stop:
            ok, image = capture.read()
            if not ok:
                return "ended"
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                return f"sends pictures of shape {image.shape} {image.dtype}, which are no use"
            picture = square(np.asarray(image, np.uint8))
            taken = _Taken(picture, time.monotonic(), datetime.now(UTC))
            with self._ready:
                self.dropped += self._slot is not None
                self._slot = taken
                self._ready.notify()
        return "was closed"

    def _open(self) -> cv2.VideoCapture:
        if isinstance(self._source, int):
            capture = cv2.VideoCapture(self._source)
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
            return capture
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(self._options.open_timeout * 1000)]
        limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(self._options.stall * 1000)]
        limits += [cv2.CAP_PROP_N_THREADS, DECODERS]
        return cv2.VideoCapture(self._source, cv2.CAP_FFMPEG, limits)

    def newest(self, timeout: float, should_stop: Callable[[], bool]) -> _Taken | None:
        """The newest frame not yet taken; None once `should_stop` says so.

        Raises:
            _Silent: the source ended, cannot be opened, or was silent for `timeout` seconds.
        """
        end = time.monotonic() + timeout
        while True:
            with self._ready:
                left = end - time.monotonic()
                self._ready.wait_for(self._news, max(0.0, min(left, ASKED)))
                if self._slot is not None:
                    taken, self._slot = self._slot, None
                    return taken
                if self._error is not None:
                    raise _Silent(self._error)
            if should_stop():
                return None
            if left <= ASKED:
                raise _Silent(f"sent no frame for {timeout:g} s")

    def _news(self) -> bool:
        return self._slot is not None or self._error is not None

    def close(self) -> None:
        """Let the thread come out of OpenCV. Ending the process while it is inside aborts, so it
        is waited for as long as OpenCV itself may wait for a frame."""
        self._stop = True
        self._thread.join(max(self._options.open_timeout, self._options.stall) + 1.0)
        if self._thread.is_alive():
            log.warning("a reader hangs in its driver and is left behind")


def of_camera(
    source: int | str,
    name: str,
    options: LiveOptions,
    should_stop: Callable[[], bool],
    link: Link | None = None,
) -> Generator[Frame]:
    """The frames of a live source, reconnected until `should_stop` or the retries are used up."""
    link = link or Link()
    start: float | None = None
    at: datetime | None = None
    index, failures, dropped = 0, 0, 0
    while not should_stop():
        reader = _Reader(source, options)
        try:
            while True:
                timeout = options.stall + (options.open_timeout if start is None else 0.0)
                taken = reader.newest(timeout, should_stop)
                if taken is None:
                    return
                if failures:
                    log.warning("%s is %s", name, "there" if start is None else "back")
                failures = 0
                start = taken.time if start is None else start
                at = taken.at if at is None else max(at, taken.at)  # the clock may be set back
                link.dropped = dropped + reader.dropped
                link.came()
                yield Frame(taken.image, taken.time - start, index, name, at)
                index += 1
        except _Silent as silence:
            said = str(silence)
        finally:
            reader.close()
            dropped += reader.dropped
        failures += 1
        link.lost(said)
        trouble = probe(source, options.open_timeout)
        link.reason = trouble.text or said
        _give_up(name, said, trouble, start is None, failures, options)
        pause = min(options.pause * 2 ** (failures - 1), options.pause_max)
        log.warning("%s %s; trying again in %.1f s", name, trouble.text or said, pause)
        _sleep(pause * random.uniform(0.8, 1.2), should_stop)


def _give_up(
    name: str, said: str, trouble: Trouble, never_came: bool, failures: int, options: LiveOptions
) -> None:
    """Raise where another attempt is of no use, or was one too many."""
    says = trouble.text or said
    if never_came and trouble.final:
        raise CameraError(f"{name} {says}")
    if options.retries is not None and failures > options.retries:
        again = f"; gave up after {options.retries} retries" if options.retries else ""
        raise CameraError(f"{name} {says}{again}")


def _sleep(seconds: float, should_stop: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not should_stop():
        time.sleep(min(left, ASKED))
