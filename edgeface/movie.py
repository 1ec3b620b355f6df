"""The video file an overlay goes into, in a form that browsers play."""

from __future__ import annotations

import contextlib
import logging
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from edgeface.errors import OutputError
from edgeface.opencv import cv2
from edgeface.types import Image

log = logging.getLogger(__name__)

REPEATED = 2.0  # seconds for which a frame is repeated at most, however long the next one takes
# What browsers play: H.264 in MP4 and VP8 in WebM. The wheels of OpenCV bring an encoder for VP8
# (640x360: 19 ms of processor time a frame) but none for H.264; where they have none, the program
# ffmpeg is asked (3 ms). VP9 in OpenCV takes 95 ms, MPEG-4 part 2 ("mp4v") 1.3 ms and plays in
# video players only.
_CODECS = {".mp4": ("avc1", "libx264"), ".webm": ("VP80", "libvpx")}
_OPTIONS = {
    "libx264": ("-preset", "veryfast", "-movflags", "+faststart"),
    "libvpx": ("-deadline", "realtime", "-cpu-used", "8", "-b:v", "2M"),
}


class _Encoder(Protocol):
    def write(self, image: Image, /) -> object: ...

    def release(self) -> None: ...


class OverlayWriter:
    """Writes frames to a video file that appears under its name only when complete.

    `.mp4` is H.264 where OpenCV or an installed ffmpeg can encode it, else MPEG-4 part 2, which
    browsers do not play, and a warning is logged; `.webm` is VP8. Other suffixes are written as
    `.mp4` is.

    Call `close`, or use it as a context manager: leaving it without an exception finishes the file,
    an exception leaves nothing behind.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        self._path = Path(path)
        self._part = self._path.with_name(f".{self._path.stem}.part{self._path.suffix or '.mp4'}")
        self._fps = fps
        self._written = self._left_out = 0
        self._size = (0, 0)
        self._encoder: _Encoder | None = None
        if not self._path.parent.is_dir():
            raise OutputError(f"{self._path.parent} is no folder; make it first")

    def __enter__(self) -> Self:
        return self

    def write(self, image: Image, time: float) -> None:
        """Show one frame from `time` (s) on; one of another size than the first is scaled to it.

        Frames are repeated or left out so that the file keeps the source's clock, whatever its
        rate; a gap of more than two seconds is shortened to two.

        Raises:
            OutputError: the file cannot be written.
        """
        if self._encoder is None:
            self._size = (image.shape[1], image.shape[0])
            self._encoder = _encoder(self._part, self._fps, self._size)
        if (image.shape[1], image.shape[0]) != self._size:
            image = np.asarray(cv2.resize(image, self._size), np.uint8)
        last = round(time * self._fps) - self._left_out
        longest = max(1, round(REPEATED * self._fps))
        if last - self._written >= longest:
            excess = last - self._written - longest + 1
            self._left_out += excess
            last -= excess
        while self._written <= last:
            self._encoder.write(image)
            self._written += 1

    def close(self) -> None:
        """Finish the file; none appears when no frame was written.

        Raises:
            OutputError: the file cannot be finished.
        """
        encoder, self._encoder = self._encoder, None
        if encoder is None:
            return
        try:
            encoder.release()
            self._part.replace(self._path)
        except OSError as error:
            raise OutputError(f"{self._path} cannot be written: {error.strerror}") from error
        finally:
            self._part.unlink(missing_ok=True)

    def discard(self) -> None:
        """Leave nothing behind."""
        encoder, self._encoder = self._encoder, None
        with contextlib.suppress(OutputError):
            if encoder is not None:
                encoder.release()
        self._part.unlink(missing_ok=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close() if kind is None else self.discard()


def _encoder(part: Path, fps: float, size: tuple[int, int]) -> _Encoder:
    fourcc, library = _CODECS.get(part.suffix.lower(), _CODECS[".mp4"])
    program = shutil.which("ffmpeg")
    if fourcc == "avc1" and (found := _opened(part, fourcc, fps, size)):
        return found
    if program and _offers(program, library):
        return _Program(program, library, part, fps, size)
    if fourcc != "avc1" and (found := _opened(part, fourcc, fps, size)):
        return found
    if found := _opened(part, "mp4v", fps, size):
        log.warning(
            "%s plays in video players but not in browsers, as nothing here encodes H.264; "
            "install ffmpeg, or name the file .webm",
            part.name.removeprefix(".").replace(".part", ""),
        )
        return found
    raise OutputError(
        f"{part.suffix} cannot be written here: OpenCV has no encoder for it; use .mp4 or .webm in "
        "a folder that may be written"
    )


def _opened(part: Path, fourcc: str, fps: float, size: tuple[int, int]) -> _Encoder | None:
    # OpenCV 4.10 has these functions in cv2 itself, 4.12 in cv2.utils.logging.
    logs: Any = getattr(cv2.utils, "logging", cv2)
    level = logs.getLogLevel()
    logs.setLogLevel(0)  # what one encoder lacks the next may have
    try:
        writer = cv2.VideoWriter(str(part), cv2.VideoWriter.fourcc(*fourcc), fps, size)
    finally:
        logs.setLogLevel(level)
    return writer if writer.isOpened() else None


def _offers(program: str, library: str) -> bool:
    listing = [program, "-hide_banner", "-encoders"]
    try:
        done = subprocess.run(listing, capture_output=True, text=True, check=False, timeout=10.0)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return f" {library} " in done.stdout


class _Program:
    """An ffmpeg that is given raw frames."""

    def __init__(
        self, program: str, library: str, part: Path, fps: float, size: tuple[int, int]
    ) -> None:
        self._part, self._errors = part, ""
        shape = f"{size[0]}x{size[1]}"
        even = "pad=ceil(iw/2)*2:ceil(ih/2)*2"  # H.264 halves the colours' resolution
        command = [program, "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "bgr24"]
        command += ["-s", shape, "-r", f"{fps:g}", "-i", "pipe:0", "-an", "-vf", even]
        command += ["-c:v", library, *_OPTIONS[library], "-pix_fmt", "yuv420p", f"file:{part}"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us: this one ends when its input does
        )

    def write(self, image: Image, /) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(image).data)
        except OSError as error:
            raise OutputError(f"{self._part}: ffmpeg ended: {self._said()}") from error

    def release(self) -> None:
        said = self._said()
        if self._process.wait():
            raise OutputError(f"{self._part} cannot be written: {said}")

    def _said(self) -> str:
        """Let the program finish, and read what it had to say."""
        stdin, self._process.stdin = self._process.stdin, None
        if stdin is not None:
            with contextlib.suppress(OSError):
                stdin.close()
            _, errors = self._process.communicate()
            self._errors = errors.decode("utf-8", "replace").strip()[-200:]
        return self._errors or "no reason given"
