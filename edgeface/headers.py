"""What the first bytes of a picture say: its format, its size, whether its end is there, how it is
turned. Decoders allocate whatever a header claims and fill what is missing with gray, so this is
asked before them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_PNG = b"\x89PNG\r\n\x1a\n"
_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_AVIF = {b"avif", b"avis"}
# A JPEG marker within entropy-coded data: neither a stuffed zero, a restart, nor a fill byte.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_NUMBERS = re.compile(rb"P[1-6](?:\s+|#[^\n]*\n)+(\d{1,9})(?:\s+|#[^\n]*\n)+(\d{1,9})")
_PAM = re.compile(rb"P7\n(?:[^\n]*\n)*?WIDTH (\d{1,9})\n(?:[^\n]*\n)*?HEIGHT (\d{1,9})\n")
_FILL = re.compile(rb"\xff+")
_SEGMENTS = 100_000  # of a JPEG; no writer makes so many
HEAD = 64  # bytes that suffice to tell the format


@dataclass(frozen=True, slots=True)
class Header:
    """The `format` of a picture, its `width` and `height` px as stored, whether its end is missing
    (`cut`), and how often it is to be turned a quarter counterclockwise (`turns`) and then be
    `mirrored` left to right; turns that OpenCV makes itself are not among them."""

    format: str
    width: int
    height: int
    cut: bool = False
    turns: int = 0
    mirrored: bool = False


def kind(data: bytes) -> str:
    """The format that the first `HEAD` bytes show, "" for none that is known."""
    for magic, name in (
        (b"\xff\xd8\xff", "JPEG"),
        (_PNG, "PNG"),
        (b"GIF8", "GIF"),
        (b"BM", "BMP"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
        (b"II+\0", "TIFF"),
        (b"MM\0+", "TIFF"),
        (_JP2, "JPEG 2000"),
        (b"\xff\x4f\xff\x51", "JPEG 2000"),
    ):
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        brands = {data[8:12], *(data[i : i + 4] for i in range(16, HEAD, 4))}
        return "AVIF" if brands & _AVIF else "HEIC" if brands & _HEIC else ""
    return "PNM" if re.match(rb"P[1-7][\s#]", data) else ""


def read(data: bytes) -> Header | None:
    """What the bytes of a picture say, None where they are no picture of a known format, or one
    whose header is damaged."""
    name = kind(data[:HEAD])
    if not name:
        return None
    try:
        return _READERS[name](data)
    except (struct.error, IndexError, ValueError):
        return None


def _jpeg(data: bytes) -> Header:
    width = height = 0
    at = 2
    for _ in range(_SEGMENTS):
        at = data.find(b"\xff", at)  # garbage between segments is skipped, as decoders do
        # A marker may be preceded by any number of fill bytes.
        found = None if at < 0 else _FILL.match(data, at)
        if found is None or found.end() + 3 > len(data):
            ended = found is not None and data[found.end() : found.end() + 1] == b"\xd9"
            return Header("JPEG", width, height, cut=not ended)
        marker, at = data[found.end()], found.end() + 1
        if marker == 0xD9:
            return Header("JPEG", width, height)
        if marker in {0x00, 0x01} or 0xD0 <= marker <= 0xD8:
            continue
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            rows, columns = struct.unpack_from(">HH", data, at + 3)
            width, height = max(width, columns), max(height, rows)
        at += max(struct.unpack_from(">H", data, at)[0], 2)
        if marker == 0xDA:  # the scan: skip its data
            scan = _MARKER.search(data, at)
            at = len(data) if scan is None else scan.start()
    return Header("JPEG", width, height, cut=True)


def _png(data: bytes) -> Header:
    width, height = struct.unpack_from(">II", data, 16)
    at = len(_PNG)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if data[at + 4 : at + 8] == b"IEND":
            return Header("PNG", width, height)
        at += 12 + length
    return Header("PNG", width, height, cut=True)


def _gif(data: bytes) -> Header:
    width, height = struct.unpack_from("<HH", data, 6)
    return Header("GIF", width, height)


def _bmp(data: bytes) -> Header:
    offset, size = struct.unpack_from("<II", data, 10)
    if size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        bits, packed = struct.unpack_from("<H", data, 24)[0], 0
    else:
        width, height = (abs(n) for n in struct.unpack_from("<ii", data, 18))
        bits, packed = struct.unpack_from("<HI", data, 28)
    row = (width * bits + 31) // 32 * 4
    return Header("BMP", width, height, cut=packed in {0, 3} and len(data) < offset + row * height)


def _tiff(data: bytes) -> Header:
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in {b"+\0", b"\0+"}
    start = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)[0]
    count = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, start)[0]
    at, step = start + (8 if big else 2), 20 if big else 12
    sizes = {256: 0, 257: 0}
    for entry in range(at, at + step * min(count, 4096), step):
        tag, form = struct.unpack_from(f"{order}HH", data, entry)
        if tag in sizes:
            code = {3: "H", 4: "I", 16: "Q"}.get(form, "I")
            sizes[tag] = struct.unpack_from(order + code, data, entry + (12 if big else 8))[0]
    return Header("TIFF", sizes[256], sizes[257])


def _webp(data: bytes) -> Header:
    cut = len(data) < struct.unpack_from("<I", data, 4)[0] + 8
    chunk = data[12:16]
    if chunk == b"VP8X":
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
    elif chunk == b"VP8L":
        packed = struct.unpack_from("<I", data, 21)[0]
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    else:
        width, height = (n & 0x3FFF for n in struct.unpack_from("<HH", data, 26))
    return Header("WebP", width, height, cut=cut)


def _pnm(data: bytes) -> Header | None:
    found = (_PAM if data.startswith(b"P7") else _NUMBERS).match(data[:4096])
    return None if found is None else Header("PNM", int(found[1]), int(found[2]))


def _jpeg2000(data: bytes) -> Header | None:
    at = data.find(b"\xff\x4f\xff\x51", 0, 1 << 20)  # the codestream, which the decoder goes by
    if at < 0:
        return None
    right, bottom, left, top = struct.unpack_from(">IIII", data, at + 8)
    return Header("JPEG 2000", right - left, bottom - top)


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The boxes of an ISO media file between two places: type, begin and end of the content."""
    while start + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, start)
        begin = start + 8
        if size == 1:
            size, begin = struct.unpack_from(">Q", data, begin)[0], begin + 8
        stop = end if size == 0 else start + size
        if stop < begin:
            return
        yield name, begin, stop
        start = stop


def _media(data: bytes) -> Header | None:
    """HEIC and AVIF: items and their properties (ISO/IEC 23008-12)."""
    name = kind(data[:HEAD])
    outer = list(_boxes(data, 0, len(data)))
    meta = next((box for box in outer if box[0] == b"meta"), None)
    if meta is None:
        return None
    inner = {n: (begin, end) for n, begin, end in _boxes(data, meta[1] + 4, meta[2])}
    begin, end = inner.get(b"iprp", (0, 0))
    parts = list(_boxes(data, begin, end))
    shared = [p for n, b, e in parts if n == b"ipco" for p in _boxes(data, b, e)]
    sizes = [struct.unpack_from(">II", data, b + 4) for n, b, _ in shared if n == b"ispe"]
    if not sizes:
        return None
    width, height = max(sizes, key=lambda s: s[0] * s[1])
    primary = 0
    if b"pitm" in inner:
        place = inner[b"pitm"][0]
        primary = struct.unpack_from(">H" if data[place] == 0 else ">I", data, place + 4)[0]
    turns, mirrored = 0, False
    for index in _associated(data, parts, primary):
        if not 0 < index <= len(shared):
            continue
        box, place, _ = shared[index - 1]
        if box == b"irot":
            turns = data[place] & 3
        elif box == b"imir":
            # Axis 0 turns top and bottom about: a mirror left to right and half a turn.
            mirrored, turns = True, turns if data[place] & 1 else turns + 2
    cut = any(stop > len(data) for _, _, stop in outer)
    return Header(name, width, height, cut, turns % 4, mirrored)


def _associated(data: bytes, parts: list[tuple[bytes, int, int]], item: int) -> Iterator[int]:
    """The numbers, from 1, of the properties of an item in their order."""
    for name, place, _ in parts:
        if name != b"ipma":
            continue
        version, wide = data[place], data[place + 3] & 1
        (entries,) = struct.unpack_from(">I", data, place + 4)
        at = place + 8
        for _ in range(min(entries, 4096)):
            form = ">H" if version < 1 else ">I"
            (this,) = struct.unpack_from(form, data, at)
            at += struct.calcsize(form)
            count, at = data[at], at + 1
            for _ in range(count):
                number = struct.unpack_from(">H", data, at)[0] if wide else data[at]
                at += 2 if wide else 1
                if this == item:
                    yield number & (0x7FFF if wide else 0x7F)


_READERS = {
    "JPEG": _jpeg,
    "PNG": _png,
    "GIF": _gif,
    "BMP": _bmp,
    "TIFF": _tiff,
    "WebP": _webp,
    "PNM": _pnm,
    "JPEG 2000": _jpeg2000,
    "AVIF": _media,
    "HEIC": _media,
}
