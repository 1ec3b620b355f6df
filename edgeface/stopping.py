"""Ending a loop that has no end of its own, so that what it opened is closed and finished."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class Stop:
    """Asked whether to stop: `Identifier.watch(source, should_stop=stop)`.

    It says yes once `set` was called, from any thread. As a context manager it also listens to
    SIGINT (Ctrl-C) and SIGTERM; the first one asks to stop, and a second one does what it would
    have done without. Python delivers signals to the main thread only, so in other threads the
    context manager listens to nothing.
    """

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._before: dict[int, object] = {}
        self.signal: int | None = None  # the number of the signal that asked

    def __call__(self) -> bool:
        return self._asked.is_set()

    def set(self) -> None:
        """Ask to stop."""
        self._asked.set()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()
        self.set()

    def _restore(self) -> None:
        while self._before:
            number, before = self._before.popitem()
            signal.signal(number, before if before is not None else signal.SIG_DFL)  # type: ignore[arg-type]
