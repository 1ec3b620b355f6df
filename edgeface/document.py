"""JSON documents read field by field: what is wrong is told with the file, the place, what was
expected and what stands there.

    mine.json: expected [0, 255] or another pair of numbers, got "0..255" at $.input.range
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, TypeAlias

from edgeface.errors import ArgumentError, EdgefaceError

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"
LIMIT = 1 << 24  # bytes; the largest document edgeface writes for itself has 60 kB
_SHOWN = 60  # characters of a wrong value that an error repeats


class Fields:
    """An object of a JSON document: typed access to its fields by name.

    A field without a default has to be there; null counts as absent.
    """

    def __init__(
        self, value: Json, file: Path, error: type[EdgefaceError], place: str = "$"
    ) -> None:
        self._file, self._error, self._place = file, error, place
        if not isinstance(value, dict):
            self.refuse(None, "an object {…}", value)
        self._values: dict[str, Json] = value

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        return (key for key in self._values if key in self)

    def refuse(self, key: str | None, expected: str, value: Json) -> NoReturn:
        """Raise the document's error for a field, or for the whole object."""
        place = self._place if key is None else f"{self._place}.{key}"
        raise self._error(f"{self._file}: expected {expected}, got {_shown(value)} at {place}")

    def text(self, key: str, *choices: str, default: str | None = None) -> str:
        """A string, one of `choices` where there are any."""
        value = self._values.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or (choices and value not in choices):
            self.refuse(key, " or ".join(map(json.dumps, choices)) or "a text", value)
        return value

    def number(self, key: str, low: float, high: float, *, default: float | None = None) -> float:
        """A finite number from `low` to `high`."""
        value = self._values.get(key)
        if value is None and default is not None:
            return default
        return self._number(key, value, low, high)

    def whole(self, key: str, low: int, high: int, *, default: int | None = None) -> int:
        """An integer from `low` to `high`."""
        value = self._values.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.refuse(key, f"an integer from {low} to {high}", value)
        return value

    def numbers(
        self,
        key: str,
        low: float,
        high: float,
        *,
        count: int | None = None,
        default: tuple[float, ...] | None = None,
    ) -> tuple[float, ...]:
        """A list of finite numbers from `low` to `high`, `count` of them."""
        value = self._values.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, list) or (count is not None and len(value) != count):
            self.refuse(key, f"a list of {'' if count is None else f'{count} '}numbers", value)
        return tuple(self._number(f"{key}[{i}]", v, low, high) for i, v in enumerate(value))

    def values(self, key: str, count: int) -> list[Json]:
        """A list of `count` values of any kind."""
        value = self._values.get(key)
        if not isinstance(value, list) or len(value) != count:
            self.refuse(key, f"a list of {count} values", value)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        value = self._values.get(key)
        if not isinstance(value, list):
            self.refuse(key, "a list of texts", value)
        for i, v in enumerate(value):
            if not isinstance(v, str):
                self.refuse(f"{key}[{i}]", "a text", v)
        return tuple(str(v) for v in value)

    def is_list(self, key: str) -> bool:
        """Whether a field is a list; for fields that may take two forms."""
        return isinstance(self._values.get(key), list)

    def fields(self, key: str) -> Fields:
        """An object within this one."""
        value = self._values.get(key)
        return Fields(value, self._file, self._error, f"{self._place}.{key}")

    def objects(self, key: str) -> list[Fields]:
        """A list of objects."""
        value = self._values.get(key)
        if not isinstance(value, list):
            self.refuse(key, "a list of objects", value)
        place = f"{self._place}.{key}"
        return [Fields(v, self._file, self._error, f"{place}[{i}]") for i, v in enumerate(value)]

    def only(self, *known: str) -> None:
        """Refuse fields that nobody would read, which are most often misspelt."""
        for key in self._values:
            if key not in known:
                self.refuse(key, f"no field but {', '.join(known)}", self._values[key])

    def others(self, *known: str) -> dict[str, Json]:
        """The fields besides `known`, as they stand."""
        return {key: value for key, value in self._values.items() if key not in known}

    def _number(self, key: str, value: Json, low: float, high: float) -> float:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not low <= value <= high:  # type: ignore[operator]
            self.refuse(key, f"a number from {low:g} to {high:g}", value)
        return float(value)  # type: ignore[arg-type]


def read(file: Path, error: type[EdgefaceError]) -> Fields:
    """The object that a JSON file holds.

    Raises:
        error: the file cannot be read, is no JSON (NaN and infinities are none, nor is a field
            given twice), nests too deeply, or holds no object.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(LIMIT + 1)
    except OSError as fault:
        raise error(f"{file} cannot be read: {fault.strerror or fault}") from fault
    if len(data) > LIMIT:
        raise error(f"{file}: more than {LIMIT >> 20} MB are no document of edgeface")
    return parse(data, file, error)


def parse(data: bytes, file: Path, error: type[EdgefaceError]) -> Fields:
    """The object that JSON text from `file` holds; `error` as for `read`."""
    try:
        value = json.loads(
            data.decode("utf-8"),
            parse_constant=_no_number,
            parse_float=_finite,
            object_pairs_hook=_once,
        )
    except RecursionError as fault:
        raise error(f"{file}: nested too deeply; write it anew") from fault
    except ValueError as fault:  # of the decoder, of JSON, of an integer of thousands of digits
        raise error(f"{file}: not JSON: {fault}") from fault
    return Fields(value, file, error)


def _shown(value: Json) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "an object"
    nested = isinstance(value, list) and any(isinstance(v, list | dict) for v in value)
    if isinstance(value, list) and (nested or len(value) > 4):
        return f"a list of {len(value)}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


def _no_number(text: str) -> NoReturn:
    raise ArgumentError(f"{text[:_SHOWN]} is no number of JSON")


def _once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for key, value in pairs:
        if key in found:
            raise ArgumentError(f"field {key[:_SHOWN]!r} is given twice")
        found[key] = value
    return found
