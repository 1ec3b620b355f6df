"""Pictures of a camera as it is now, encoded only while somebody looks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable

from starlette.concurrency import run_in_threadpool

from edgeface.cameras import Camera, Snapshot
from edgeface.images import jpeg

FPS = 10.0  # at most
SIDE = 960  # px; larger frames are scaled down
QUALITY = 80  # of the JPEGs, %
BOUNDARY = "edgeface-frame"
WAIT = 1.0  # seconds that a thread waits for a frame


class Stills:
    """The newest frame of each camera as JPEG, made once however many look."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[Camera, tuple[int, bytes]] = {}
        self.encoded = 0  # pictures so far
        self.watching = 0  # streams that are open

    def jpeg(self, camera: Camera, shot: Snapshot) -> bytes:
        """A snapshot of the camera, encoded."""
        with self._lock:
            number, data = self._made.get(camera, (0, b""))
            if number != shot.number:
                data = jpeg(shot.image, SIDE, QUALITY)
                self.encoded += 1
                self._made = {camera: (shot.number, data)}
            return data

    async def mjpeg(self, camera: Camera, ended: Callable[[], bool]) -> AsyncIterator[bytes]:
        """The parts of a multipart stream: always the newest frame, at most `FPS`."""
        self.watching += 1
        try:
            async for part in self._parts(camera, ended):
                yield part
        finally:
            self.watching -= 1

    async def _parts(self, camera: Camera, ended: Callable[[], bool]) -> AsyncIterator[bytes]:
        number, due = 0, 0.0
        while not ended():
            wait = due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            shot = await run_in_threadpool(camera.snapshot, number, WAIT)
            if shot is None:
                if camera.has_ended:
                    return
                continue
            number, due = shot.number, time.monotonic() + 1.0 / FPS
            data = await run_in_threadpool(self.jpeg, camera, shot)
            head = (
                f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            )
            yield head.encode() + data + b"\r\n"
