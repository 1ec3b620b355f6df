"""Pictures in: a path, bytes or an array becomes (H, W, 3) uint8 BGR, or an error says why not."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np

from edgeface.errors import DependencyError, ImageError
from edgeface.types import Image

try:
    import cv2
except ImportError as error:  # pragma: no cover - the message is the point
    raise DependencyError(
        "edgeface needs OpenCV and found no cv2 module; run: pip install 'edgeface[headless]'"
    ) from error

MAX_PIXELS = 100_000_000
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".jfif"})

Source = str | os.PathLike[str] | bytes | Image


def check(image: Image) -> Image:
    """Return `image` unchanged if it is a non-empty (H, W, 3) uint8 array.

    Raises:
        ImageError: it is not; the message names the conversion that is needed.
    """
    if not isinstance(image, np.ndarray):
        raise ImageError(f"an image must be a numpy array, got {type(image).__name__}")
    if image.dtype != np.uint8:
        raise ImageError(
            f"image has dtype {image.dtype}, uint8 is needed; if its values are 0..1, use "
            "(image * 255).astype('uint8')"
        )
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
        raise ImageError(
            f"image is gray {image.shape}, (H, W, 3) BGR is needed; use "
            "cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)"
        )
    if image.ndim == 3 and image.shape[2] == 4:
        raise ImageError(
            f"image has four channels {image.shape}, (H, W, 3) BGR is needed; use "
            "cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)"
        )
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ImageError(f"image has shape {image.shape}, (H, W, 3) with H, W > 0 is needed")
    return image


def read(source: Source) -> Image:
    """Read a picture, its EXIF orientation applied.

    Args:
        source: a path, the bytes of an encoded picture, or an array that is already an image.

    Raises:
        ImageError: missing, empty, damaged, cut short, not a picture, or beyond `MAX_PIXELS`.
    """
    if isinstance(source, np.ndarray):
        return check(source)
    if isinstance(source, bytes):
        name, data = "the picture", source
    else:
        name, path = str(source), Path(source)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ImageError(f"{name} cannot be read: {error.strerror}") from error
    if not data:
        raise ImageError(f"{name} is empty (0 bytes)")
    _check_size(name, _header_size(data))
    if _cut_short(data):
        raise ImageError(f"{name} is cut short; copy or download it again")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ImageError(f"{name} is not a picture OpenCV can decode, or it is damaged")
    _check_size(name, (image.shape[1], image.shape[0]))
    return np.asarray(image, np.uint8)


def _check_size(name: str, size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} is {width}x{height}; at most {MAX_PIXELS // 1_000_000} megapixels are read: "
            "scale it down"
        )


def _header_size(data: bytes) -> tuple[int, int]:
    """(width, height) as PNG and JPEG headers state it, before a decoder allocates; else (0, 0)."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    at = 2
    while data[:2] == b"\xff\xd8" and at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return 0, 0


def _cut_short(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end: decoders fill the rest with gray and say nothing."""
    if data[:2] == b"\xff\xd8":
        return b"\xff\xd9" not in data[-4096:]
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return b"IEND" not in data[-4096:]
    return False
