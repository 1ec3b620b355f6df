"""Numbers by number, of a million samples: two arrays, and what changed since in a dictionary.

A dictionary of a million takes ten times the memory and the time to make; arrays alone would be
copied at every change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
LEAST = 1_000  # changes that are not merged into the arrays


class Numbers:
    """Sample ids with a number each, such as the person whose it is."""

    def __init__(self) -> None:
        self._keys, self._values = np.empty(0, np.int64), np.empty(0, np.int64)
        self._new: dict[int, int] = {}
        self._gone: set[int] = set()  # of the keys in the array

    @classmethod
    def of(cls, keys: Ids, values: Ids | None = None) -> Self:
        """`keys` (n,), each of them once, with `values` (n,) or 0."""
        made = cls()
        order = None if np.all(keys[:-1] < keys[1:]) else np.argsort(keys)
        values = np.zeros(len(keys), np.int64) if values is None else values
        made._keys = keys if order is None else keys[order]
        made._values = values if order is None else values[order]
        return made

    def __len__(self) -> int:
        return len(self._keys) - len(self._gone) + len(self._new)

    def __contains__(self, key: int) -> bool:
        return key in self._new or (key not in self._gone and self._held(key))

    def __getitem__(self, keys: Ids) -> list[int]:
        """The numbers of `keys` (k,). KeyError if one of them is not there."""
        if not len(self._keys):
            return list(map(self._new.__getitem__, keys.tolist()))
        places = self._keys.searchsorted(keys)
        found = self._keys.take(places, mode="clip") == keys
        values: list[int] = self._values.take(places, mode="clip").tolist()
        if not self._new and not self._gone and found.all():
            return values
        return [
            value if here and key not in self._gone else self._new[key]
            for key, value, here in zip(keys.tolist(), values, found.tolist(), strict=True)
        ]

    def keys(self) -> Ids:
        """Every key, in no order."""
        return self._all()[0]

    def put(self, keys: Ids, values: Ids | None = None) -> None:
        """Add `keys`, or change their numbers."""
        listed: Sequence[int] = keys.tolist()
        self._gone.update(k for k in listed if k not in self._new and self._held(k))
        self._new.update(
            zip(listed, [0] * len(listed) if values is None else values.tolist(), strict=True)
        )
        if len(self._new) + len(self._gone) > max(LEAST, len(self._keys) // 8):
            self._merge()

    def drop(self, keys: Ids) -> None:
        """Take away those of `keys` that are there."""
        for key in keys.tolist():
            if self._new.pop(key, None) is None and self._held(key):
                self._gone.add(key)

    def _held(self, key: int) -> bool:
        place = int(self._keys.searchsorted(key))
        return place < len(self._keys) and bool(self._keys[place] == key)

    def _all(self) -> tuple[Ids, Ids]:
        keys, values = self._keys, self._values
        if self._gone:
            kept = ~np.isin(keys, np.fromiter(self._gone, np.int64))
            keys, values = keys[kept], values[kept]
        if not self._new:
            return keys, values
        n = len(self._new)
        return (
            np.concatenate([keys, np.fromiter(self._new, np.int64, n)]),
            np.concatenate([values, np.fromiter(self._new.values(), np.int64, n)]),
        )

    def _merge(self) -> None:
        keys, values = self._all()
        order = np.argsort(keys)
        self._keys, self._values = keys[order], values[order]
        self._new, self._gone = {}, set()
