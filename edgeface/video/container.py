"""Whether a video file is as long as its container says, by the sizes that the container states.

A decoder stops at the end of a file that is cut short as it stops at the end of a whole one.
"""

from __future__ import annotations

import struct
from enum import Enum
from pathlib import Path
from typing import BinaryIO

EBML, SEGMENT = b"\x1a\x45\xdf\xa3", 0x18538067  # Matroska and WebM (RFC 8794, RFC 9559)


class Container(Enum):
    """What a container tells: it is `CUT_SHORT`; it is whole and its frames are `COUNTED`; or
    neither (`OPEN`), as in a stream that was recorded without an end."""

    CUT_SHORT = "cut short"
    COUNTED = "counted"
    OPEN = "open"


def inspect(path: Path) -> Container:
    """Read the container's own sizes: MP4 and MOV (ISO 14496-12), AVI (RIFF), Matroska and WebM."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(12)
        stream.seek(0)
        if head[4:8] in {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"}:
            return Container.CUT_SHORT if _boxes_end(stream, size) > size else Container.COUNTED
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            (riff,) = struct.unpack("<I", head[4:8])
            return Container.CUT_SHORT if riff + 8 > size else Container.COUNTED
        if head[:4] == EBML:
            return Container.CUT_SHORT if _elements_end(stream, size) > size else Container.OPEN
    return Container.OPEN


def _boxes_end(stream: BinaryIO, size: int) -> int:
    """Where the top-level boxes end by their own sizes."""
    at = 0
    while at + 8 <= size:
        stream.seek(at)
        head = stream.read(16)
        length, kind = struct.unpack(">I4s", head[:8])
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack(">Q", head[8:])
        if length == 0 or not kind.strip().isalnum():  # to the end of the file; padding
            return size
        if length < 8:
            return size
        at += length
    return at


def _elements_end(stream: BinaryIO, size: int) -> int:
    """Where the segment, the last element of the file, ends by its own size."""
    at = 0
    while at < size:
        stream.seek(at)
        head = stream.read(12)
        first, id_length = _number(head, keep_marker=True)
        length, length_length = _number(head[id_length:], keep_marker=False)
        if not id_length or not length_length:
            return size
        if length == (1 << 7 * length_length) - 1:  # all ones: unknown, as while recording
            return size
        at += id_length + length_length + length
        if first == SEGMENT:
            return at
    return at


def _number(data: bytes, *, keep_marker: bool) -> tuple[int, int]:
    """A variable-length number of EBML and how many bytes it takes; (0, 0) for none."""
    if not data or not data[0]:
        return 0, 0
    length = 9 - data[0].bit_length()
    if length > len(data):
        return 0, 0
    value = int.from_bytes(data[:length])
    return (value if keep_marker else value & ((1 << 7 * length) - 1)), length
