"""Pictures of a camera as it is now, encoded only while somebody looks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable

import numpy as np
from starlette.concurrency import run_in_threadpool

from edgeface.cameras import Camera, Snapshot
from edgeface.opencv import cv2

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
                data = _encode(shot)
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


def _encode(shot: Snapshot) -> bytes:
    image = shot.image
    ratio = SIDE / max(image.shape[:2])
    if ratio < 1.0:
        size = [max(1, round(n * ratio)) for n in image.shape[1::-1]]
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1])
