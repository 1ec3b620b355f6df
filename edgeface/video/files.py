"""Frames of a video file and of a folder of pictures. None is dropped."""

from __future__ import annotations

import logging
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from edgeface import images
from edgeface.errors import ImageError, SourceError
from edgeface.listing import pictures_in
from edgeface.opencv import cv2
from edgeface.types import Frame, Image
from edgeface.video.addresses import is_live
from edgeface.video.container import Container, inspect

log = logging.getLogger(__name__)

SCARCE = 128 << 20  # bytes; the first frame of a 640x360 video takes 30 to 150 MB


def length(source: str | int | Path) -> int:
    """Number of frames a file or folder announces, 0 when unknown."""
    path = Path(str(source))
    if is_live(source) or not path.exists():
        return 0
    if path.is_dir():
        return len(pictures_in(path, below=False).pictures)
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


class Squaring:
    """Makes frames whose pixels are not square what a player shows: sideways or upright only ever
    larger, so that no detail goes."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        wide = float(capture.get(cv2.CAP_PROP_SAR_NUM) or 0)
        high = float(capture.get(cv2.CAP_PROP_SAR_DEN) or 0)
        known = wide > 0 and high > 0 and 0.1 < wide / high < 10.0
        self._aspect = wide / high if known else 1.0

    def __call__(self, image: Image) -> Image:
        if abs(self._aspect - 1.0) < 0.01:
            return image
        height, width = image.shape[:2]
        if self._aspect > 1.0:
            size = (round(width * self._aspect), height)
        else:
            size = (width, round(height / self._aspect))
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def of_folder(folder: Path, name: str, fps: float) -> Generator[Frame]:
    """The pictures of a folder in the order of their names; bad ones are logged and passed over.

    Raises:
        SourceError: there are none, or, at the end, some could not be read.
    """
    files = pictures_in(folder, below=False).pictures
    if not files:
        kinds = " ".join(sorted(images.SUFFIXES))
        raise SourceError(f"folder {folder} holds no pictures ({kinds})")
    bad = 0
    for index, file in enumerate(files):
        try:
            image = images.read(file)
        except ImageError as error:
            log.warning("%s; going on with the next picture", error)
            bad += 1
        else:
            yield Frame(image, index / fps, index, name, datetime.now(UTC))
    if bad:
        raise SourceError(f"{bad} of {len(files)} pictures of {folder} could not be read")


def of_file(path: Path, name: str) -> Generator[Frame]:
    """The frames of a video file."""
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise SourceError(
                f"{path} is not a video OpenCV can decode, or it is empty or damaged; "
                "convert it with: ffmpeg -i IN -c:v libx264 OUT.mp4"
            )
        announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        fps = capture.get(cv2.CAP_PROP_FPS) or 25.0
        square = Squaring(capture)
        index, last = 0, -1.0
        while True:
            ok, image = capture.read()
            if not ok:
                break
            stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0
            # Some containers give no or repeated timestamps; time must go on all the same.
            last = stamp if stamp > last else last + 1.0 / fps
            picture = square(_usable(image, path))
            yield Frame(picture, max(last, 0.0), index, name, datetime.now(UTC))
            index += 1
    finally:
        capture.release()
    _check_whole(path, index, announced)


def _usable(image: object, path: Path) -> Image:
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size:
        if image.ndim == 2:
            return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), np.uint8)
        if image.ndim == 3 and image.shape[2] == 3:
            return image
    raise SourceError(
        f"{path}: OpenCV decodes it to something that is no (H, W, 3) uint8 picture; "
        "convert it with: ffmpeg -i IN -c:v libx264 OUT.mp4"
    )


def _check_whole(path: Path, read: int, announced: int) -> None:
    """Say so when a file gave fewer frames than it has.

    Raises:
        SourceError: it gave none, or clearly fewer.
    """
    left = memory_left()
    if left is not None and left < SCARCE and read < announced:
        raise SourceError(
            f"{path}: decoding stopped after {read} of {announced} frames, with {left >> 20} MB "
            "left of the memory this process may use; raise that limit (ulimit -v)"
        )
    if not read:
        raise SourceError(
            f"{path} opens, but OpenCV decodes none of its frames; convert it with: "
            "ffmpeg -i IN -c:v libx264 OUT.mp4"
        )
    held = inspect(path)
    if held is Container.CUT_SHORT:
        raise SourceError(
            f"{path} is cut short: it ends after {read} of {max(read, announced)} frames; copy it "
            "again. The events so far stand"
        )
    # Only some containers count their frames; for the others OpenCV multiplies the duration, of
    # sound too, by a mean rate, which says nothing.
    if held is not Container.COUNTED or read >= announced - 1:
        return
    message = f"{path} ends after {read} of {announced} frames: it is damaged or cut short"
    if read < 0.9 * announced - 2:
        raise SourceError(message + "; copy it again. The events so far stand")
    log.warning("%s", message)


def memory_left() -> int | None:
    """Bytes of address space until the limit of this process (`ulimit -v`); None without one.
    Decoders that get no memory only say that there is no frame."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        return None
    return None if limit == resource.RLIM_INFINITY else max(limit - used, 0)
