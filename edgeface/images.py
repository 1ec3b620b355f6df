"""Pictures in: a path, bytes or an array becomes (H, W, 3) uint8 BGR, or an error says why not."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface import headers
from edgeface.errors import ImageError
from edgeface.opencv import MAX_PIXELS, cv2
from edgeface.types import Image

MAX_BYTES = 1 << 29  # of an encoded picture; the largest uncompressed one of MAX_PIXELS has 400 MB
_ALWAYS = {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff"}
_SOMETIMES = {".gif", ".jp2", ".avif", ".heic", ".heif"}  # read or refused, never passed over
SUFFIXES = frozenset(_ALWAYS | _SOMETIMES)
_OPTIONAL = {"GIF", "AVIF", "JPEG 2000"}  # what not every build of OpenCV decodes

Source = str | os.PathLike[str] | bytes | NDArray[Any]


def check(image: NDArray[Any]) -> Image:
    """`image` unchanged if it is a non-empty (H, W, 3) uint8 array.

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
    """Read a picture and turn it upright, as its file says.

    JPEG, PNG, BMP, WebP, TIFF and PNM are always read; GIF (the first picture), AVIF and JPEG 2000
    where the installed OpenCV can, HEIC with the extra `heic`.

    Args:
        source: a path, the bytes of an encoded picture, or an array that is already an image.

    Raises:
        ImageError: missing, empty, damaged, cut short, not a picture that can be read here, or
            beyond `MAX_PIXELS`; the message says what to do.
    """
    if isinstance(source, np.ndarray):
        return check(source)
    name = "the picture" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else _load(name, Path(source))
    if not data:
        raise ImageError(f"{name} is empty (0 bytes)")
    header = headers.read(data)
    if header is None:
        raise ImageError(f"{name} is not a picture of a known format, or it is damaged")
    if header.width * header.height > MAX_PIXELS:
        raise ImageError(
            f"{name} is {header.width}x{header.height}; at most {MAX_PIXELS // 1_000_000} "
            "megapixels are read: scale it down"
        )
    if header.cut:
        raise ImageError(f"{name} is cut short; copy or download it again")
    return _heic(name, data) if header.format == "HEIC" else _decode(name, data, header)


def _load(name: str, path: Path) -> bytes:
    """The bytes of a file, of which no more is read than needed to see that it is no picture."""
    try:
        with path.open("rb") as file:
            data = file.read(headers.HEAD)
            if not headers.kind(data):
                return data
            data += file.read(MAX_BYTES - len(data))
            if file.read(1):
                raise ImageError(f"{name} has more than {MAX_BYTES >> 20} MB: scale it down")
            return data
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{name} cannot be read: {reason}") from error


def _decode(name: str, data: bytes, header: headers.Header) -> Image:
    flags = cv2.IMREAD_COLOR
    if header.format == "AVIF":  # builds of OpenCV differ in whether they turn it: none shall
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f"{name} is damaged: OpenCV cannot decode it ({error.err})") from error
    except MemoryError as error:
        raise ImageError(f"{name} does not fit into memory: scale it down") from error
    if image is None and header.format in _OPTIONAL:
        raise ImageError(
            f"{name} is {header.format}, which this OpenCV cannot decode, or it is damaged; "
            "convert it to JPEG"
        )
    if image is None:
        raise ImageError(f"{name} is not a picture OpenCV can decode, or it is damaged")
    if header.turns or header.mirrored:
        image = np.rot90(image, header.turns)
        image = np.ascontiguousarray(image[:, ::-1] if header.mirrored else image)
    return np.asarray(image, np.uint8)


def _heic(name: str, data: bytes) -> Image:
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageError(
            f"{name} is HEIC; install pip install 'edgeface[heic]' to read it, or convert it to "
            "JPEG (phones can also be set to take JPEG)"
        ) from error
    try:
        picture = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=True)
        image = np.asarray(picture.to_pillow().convert("RGB"))
    except Exception as error:  # the bindings raise a dozen unrelated classes
        raise ImageError(f"{name} is damaged: {error}") from error
    return np.ascontiguousarray(image[..., ::-1])


def jpeg(image: Image, side: int, quality: int) -> bytes:
    """An image (H, W, 3) uint8 BGR as JPEG of a `quality` in percent, its longer side scaled down
    to `side` px; a smaller image stays as it is."""
    ratio = side / max(image.shape[:2])
    if ratio < 1.0:
        size = [max(1, round(n * ratio)) for n in image.shape[1::-1]]
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])
