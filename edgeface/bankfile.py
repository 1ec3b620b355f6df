"""The file of a submodel bank: named arrays behind a checked header, mapped and not read.

8 bytes magic, version, header length, CRC-32 of all these and the header (little-endian uint32)
header, JSON padded to 64 bytes: what the bank says of itself, and for each section its dtype,
    shape, offset from the end of the header, and CRC-32
sections, each from a multiple of 64 bytes
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.atomic import replacing
from edgeface.document import Fields, parse
from edgeface.errors import BankError

_MAGIC = b"EFBANK\r\n"
_VERSION = 1
_HEAD = struct.Struct("<8sIII")  # magic, version, header bytes, CRC-32 of all but itself
_ALIGN = 64
_LIMIT = 1 << 24  # a header beyond this is damage, not a bank
_SPARSE = ".exact"  # of these a row here and there is read: reading ahead would fetch them whole
_LARGEST = 1 << 53  # bytes or rows; beyond this numbers of JSON are not exact
_DTYPES = {"uint8", "int64", "float16", "float32"}


class Names(Sequence[str]):
    """Names read from the mapped file one at a time."""

    def __init__(self, text: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self._text, self._ends = text, ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        begin, end = int(self._ends[index]), int(self._ends[index + 1])
        if not 0 <= begin <= end <= len(self._text):
            raise BankError(f"the bank's name {index} lies outside its text; it is damaged")
        return self._text[begin:end].tobytes().decode(errors="replace")


def _padded(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def write(path: Path, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> None:
    """Atomically: whoever reads sees the old file or the new one."""
    sections: dict[str, list[Any]] = {}
    at = 0
    for label, array in arrays.items():
        array = np.ascontiguousarray(array)
        crc = zlib.crc32(array.reshape(-1).view(np.uint8).data)
        sections[label] = [str(array.dtype), list(array.shape), at, crc]
        at += _padded(array.nbytes)
    text = json.dumps({**meta, "sections": sections, "size": at}).encode()
    text = text.ljust(_padded(_HEAD.size + len(text)) - _HEAD.size)
    crc = zlib.crc32(_HEAD.pack(_MAGIC, _VERSION, len(text), 0) + text)
    with replacing(path) as file:
        file.write(_HEAD.pack(_MAGIC, _VERSION, len(text), crc) + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            file.write(bytes(_padded(array.nbytes) - array.nbytes))


def read(path: Path, *, verify: bool) -> tuple[dict[str, NDArray[Any]], Fields]:
    """The mapped arrays and the header; `verify` reads all and compares checksums.
    Raises BankError for a file that is no bank, damaged, cut short, or of another version."""
    try:
        with path.open("rb") as file:
            fixed = file.read(_HEAD.size)
            if len(fixed) < _HEAD.size or not fixed.startswith(_MAGIC):
                raise BankError(f"{path}: not a submodel bank, or cut short")
            magic, version, length, crc = _HEAD.unpack(fixed)
            text = file.read(min(length, _LIMIT))
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise BankError(f"{path}: cannot be read: {error.strerror}") from error
    if len(text) != length or zlib.crc32(_HEAD.pack(magic, version, length, 0) + text) != crc:
        raise BankError(f"{path}: the header is damaged or cut short; copy or pack the bank again")
    if version != _VERSION:
        raise BankError(f"{path}: bank version {version}, this edgeface reads {_VERSION}")
    header = parse(text, path, BankError)
    return _map(path, header, _HEAD.size + length, size, verify=verify), header


def _section(sections: Fields, label: str) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape, offset and checksum of a section, as its header states them."""
    dtype, shape, at, crc = sections.values(label, 4)
    sizes = shape if isinstance(shape, list) else [None]
    numbers = [n for n in (*sizes, at, crc) if type(n) is int and 0 <= n <= _LARGEST]
    known = isinstance(dtype, str) and dtype in _DTYPES
    if not known or not 1 <= len(sizes) <= 2 or len(numbers) != len(sizes) + 2:
        sections.refuse(label, "its type, shape, offset and checksum", [dtype, shape, at, crc])
    return str(dtype), tuple(numbers[:-2]), numbers[-2], numbers[-1]


def _map(
    path: Path, header: Fields, start: int, size: int, *, verify: bool
) -> dict[str, NDArray[Any]]:
    content = header.whole("size", 0, _LARGEST)
    if size != start + content:
        raise BankError(f"{path}: {size} bytes, expected {start + content}; it was cut short")
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    whole = np.frombuffer(mapped, dtype=np.uint8)
    arrays = {}
    sections = header.fields("sections")
    for label in sections:
        dtype, shape, at, section_crc = _section(sections, label)
        length = math.prod(shape) * np.dtype(dtype).itemsize
        if at % _ALIGN or at + length > content:
            raise BankError(f"{path}: section {label} lies outside the file")
        raw = np.asarray(whole[start + at : start + at + length])
        if verify and zlib.crc32(raw.data) != section_crc:
            raise BankError(f"{path}: section {label} fails its checksum; copy the bank again")
        arrays[label] = raw.view(dtype).reshape(shape)
        page = -(start + at) % mmap.PAGESIZE
        if label.endswith(_SPARSE) and length > page and hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM, start + at + page, length - page)
    return arrays
