"""How far a long command has come: one line on stderr, on a terminal alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

REDRAWN = 0.1  # seconds from one drawing to the next: a terminal is slow
_ERASE = "\r\x1b[K"
_shown: Progress | None = None

T = TypeVar("T")


class Progress:
    """A line `label done/total, time left` that makes way for whatever else is printed."""

    def __init__(self, label: str, total: int = 0) -> None:
        self._label, self._total, self._done = label, total, 0
        self._visible = sys.stderr.isatty()
        self._started = time.monotonic()
        self._drawn = -float("inf")

    def __enter__(self) -> Self:
        global _shown  # noqa: PLW0603 - there is one terminal
        _shown = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        global _shown  # noqa: PLW0603
        self.clear()
        _shown = None

    def step(self) -> None:
        """One more is done."""
        self._done += 1
        self._draw()

    def at(self, done: int, total: int) -> None:
        """`done` of `total` are done."""
        self._done, self._total = done, total
        self._draw()

    def clear(self) -> None:
        """Take the line away until the next step."""
        if self._drawn > 0:
            print(_ERASE, end="", file=sys.stderr, flush=True)
            self._drawn = -float("inf")

    def _draw(self) -> None:
        now = time.monotonic()
        if not self._visible or now - self._drawn < REDRAWN:
            return
        self._drawn = now
        text = f"{self._label} {self._done}"
        if self._total > 0:
            spent = now - self._started
            left = spent / self._done * max(self._total - self._done, 0) if self._done else 0.0
            text += f"/{self._total}, {_span(left)} left"
        print(f"{_ERASE}{text}", end="", file=sys.stderr, flush=True)


def clear() -> None:
    """Take the line away, if there is one, before something else is printed."""
    if _shown is not None:
        _shown.clear()


def each(items: Iterable[T], label: str) -> Iterator[T]:
    """The items, with a line that counts them."""
    total = len(items) if isinstance(items, Sequence) else 0
    with Progress(label, total) as line:
        for item in items:
            yield item
            line.step()


def _span(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02} s"
