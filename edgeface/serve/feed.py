"""The log of events as a stream: every event once, in order, wherever a client left off.

Listeners only wake the streams; what they send is read from the log. So nothing is sent that a
crash could lose, and nothing has to be kept for a slow client.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from starlette.concurrency import run_in_threadpool

from edgeface.errors import GalleryError
from edgeface.sightings import Sightings

HEARTBEAT = 15.0  # seconds; proxies give up on silent connections after 60 and more
LOOK = 1.0  # seconds between looks for what other processes wrote, such as `edgeface gallery`
AT_ONCE = 200  # events read from the log at a time


class Feed:
    """The streams of one log."""

    def __init__(self, store: Sightings) -> None:
        self._store = store
        self._waiting: set[asyncio.Event] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.ended = False  # all streams end, those of pictures too
        store.listeners.append(self._on_event)

    def _on_event(self, event: dict[str, Any]) -> None:
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for waiting in self._waiting:
            waiting.set()

    def begin(self) -> None:
        """Take streams, in the loop that is running."""
        self._loop = asyncio.get_running_loop()

    def end(self) -> None:
        """End all streams, for a stop; in the loop's thread."""
        self.ended = True
        self._wake()

    @property
    def clients(self) -> int:
        """How many streams there are."""
        return len(self._waiting)

    async def stream(self, after: str | None) -> AsyncIterator[str]:
        """Server-sent events: those after the one with the id `after`, or from now on: then
        `start` comes first, with the id of where that is, so that a client cut off before it saw
        anything goes on from there. Where the log no longer has `after`, an event `gap` says so and
        the stream goes on from now."""
        news = asyncio.Event()
        self._waiting.add(news)
        try:
            # Where it begins is settled before anything is sent: what comes later is sent.
            begin = "retry: 1000\n\n"
            if after is None and (after := await run_in_threadpool(self._store.newest)):
                begin += f"event: start\nid: {after}\ndata: {{}}\n\n"
            yield begin
            sent = time.monotonic()
            while not self.ended:
                news.clear()
                try:
                    events = await run_in_threadpool(self._store.events, after, AT_ONCE)
                except GalleryError as error:
                    if error.__cause__ is not None:  # the disk: the client comes again
                        raise
                    gone, after = after, await run_in_threadpool(self._store.newest)
                    yield f"event: gap\ndata: {json.dumps({'after': gone})}\n\n"
                    continue
                for event in events:
                    yield as_sent(event)
                    after = event["id"]
                if events:
                    sent = time.monotonic()
                elif time.monotonic() - sent >= HEARTBEAT:
                    sent = time.monotonic()
                    yield ": still here\n\n"
                elif not self.ended:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(news.wait(), min(LOOK, HEARTBEAT))
        finally:
            self._waiting.discard(news)


def as_sent(event: dict[str, Any]) -> str:
    """One event on the wire; JSON has no newlines, so it is one line of data."""
    return f"id: {event['id']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"
