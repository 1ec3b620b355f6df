"""What a camera costs before which nothing happens, and a clip beside looking at every frame whole.

Processor time of `Identifier.step`; reading and decoding frames does not count. For four cameras of
one process it counts: files of 640x360 are decoded, the sample clip and three empty rooms.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

import edgeface as ef
from bench.pipeline_clips import Clip
from edgeface import images

SIZES = ((640, 360), (1920, 1080))
RATE = 25  # frames/s
CAMERAS, CAMERA_RATE, CORES = 4, 15, 2
NOISE = 3.0  # gray levels of the empty room's camera
PICTURES = 25  # pictures of it that are shown again and again


def room(width: int, height: int) -> list[ef.Frame]:
    """Ten seconds of an empty room, with the noise of a sensor."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(40, 200, (9, 16, 3)).astype(np.float32)
    scene = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    pictures = []
    for _ in range(PICTURES):
        noise = rng.standard_normal(scene.shape, np.float32) * np.float32(NOISE)
        pictures.append(np.clip(scene + noise, 0, 255).astype(np.uint8))
    return [ef.Frame(pictures[i % PICTURES], i / RATE, i) for i in range(10 * RATE)]


def read(clip: Clip, size: tuple[int, int], limit: int) -> list[ef.Frame]:
    """The frames of a clip, scaled to `size` (width, height)."""
    capture, frames = cv2.VideoCapture(str(clip.file)), list[ef.Frame]()
    rate = capture.get(cv2.CAP_PROP_FPS)
    while len(frames) < limit and (shot := capture.read())[0]:
        image = shot[1]
        if image.shape[1::-1] != size:
            image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        frames.append(ef.Frame(np.asarray(image, np.uint8), len(frames) / rate, len(frames)))
    return frames


def used(frames: Sequence[ef.Frame], people: Sequence[Path], settings: ef.Settings) -> float:
    """Milliseconds of processor time per frame."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.gallery"
        with ef.Identifier.open(path, settings=settings) as app:
            for file in people:
                app.enroll(file.stem, [images.read(file)], policy="largest")
            app.step(ef.Frame(frames[0].image, 0.0, 0))  # buffers and caches are made
            app.reset()
            started = time.process_time()
            for frame in frames:
                app.step(frame)
            spent = time.process_time() - started
    return 1000 * spent / len(frames)


def idle(quick: bool) -> dict[str, float]:
    """Figures `idle.WIDTHxHEIGHT.cpu_ms`."""
    return {
        f"idle.{w}x{h}.cpu_ms": used(room(w, h)[: 100 if quick else None], [], ef.Settings())
        for w, h in SIZES
    }


def saved(clip: Clip, size: tuple[int, int], rounds: int, limit: int) -> float:
    """Processor time of a clip in a `size` over that of looking at all of every frame, median of
    rounds."""
    frames, ratios = read(clip, size, limit), []
    for _ in range(rounds):
        whole = used(frames, clip.people, ef.Settings(motion=None))
        ratios.append(used(frames, clip.people, ef.Settings()) / whole)
    return statistics.median(ratios)


def cameras(clip: Clip, folder: Path, limit: int) -> float:
    """Share of two cores that four cameras at 15 frames/s take, one of them with people: processor
    time of decoding and following, over what two cores have in that time."""
    width, height = SIZES[0]
    empty = folder / "empty.mp4"
    code = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(empty), code, CAMERA_RATE, (width, height))
    for frame in room(width, height)[:limit]:
        writer.write(frame.image)
    writer.release()
    sources = [clip.file, *[empty] * (CAMERAS - 1)]
    with ef.Identifier.open(folder / "cameras.gallery") as first:
        for file in clip.people:
            first.enroll(file.stem, [images.read(file)], policy="largest")
        apps = [ef.Identifier(first.describer, first.gallery) for _ in sources]
        captures = [cv2.VideoCapture(str(file)) for file in sources]
        count, started = 0, 0.0
        for index in range(limit):
            if index == 1:  # what is made once has been made
                started = time.process_time()
            shots = [capture.read() for capture in captures]
            if not all(ok for ok, _ in shots):
                break
            for app, (_, image) in zip(apps, shots, strict=True):
                app.step(ef.Frame(np.asarray(image, np.uint8), index / CAMERA_RATE, index))
            count += index > 0
        spent = time.process_time() - started
    return spent / (CORES * count / CAMERA_RATE)
