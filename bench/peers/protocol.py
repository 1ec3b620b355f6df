"""What every system of the pipeline bench does around its own four lines: enrol, loop, count.

Runs inside the system's own environment, so it needs the standard library, numpy and cv2 alone.
A system is a script that calls `main(load)`; `load(options)` returns an object with `enrol(name,
image)` and `step(image, index, seconds)`. Images are (H, W, 3) uint8 BGR as cv2 reads them. One
JSON document goes to stdout.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

Seen = tuple[tuple[float, float, float, float], str | None]  # box xyxy in pixels, name or None


class System(Protocol):
    """One way of naming the faces of a clip."""

    def enrol(self, name: str, image: np.ndarray) -> None: ...

    def step(self, image: np.ndarray, index: int, seconds: float) -> list[Seen]: ...


class Nearest:
    """People by unit embedding; a face is the most similar person, if similar enough."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._names: list[str] = []
        self._rows: list[np.ndarray] = []

    def add(self, name: str, embedding: np.ndarray) -> None:
        self._names.append(name)
        self._rows.append(embedding / np.linalg.norm(embedding))

    def name(self, embedding: np.ndarray) -> str | None:
        similarity = np.stack(self._rows) @ (embedding / np.linalg.norm(embedding))
        best = int(similarity.argmax())
        return self._names[best] if similarity[best] >= self._threshold else None


def align(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The (112, 112, 3) crop of five landmarks (5, 2), as ArcFace (Deng et al. 2019) aligns."""
    template = [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366]]
    template += [[41.5493, 92.3655], [70.7299, 92.2041]]
    matrix, _ = cv2.estimateAffinePartial2D(
        landmarks.astype(np.float32), np.array(template, np.float32), method=cv2.LMEDS
    )
    return cv2.warpAffine(image, matrix, (112, 112))


def frames(file: Path, every: int, offset: int) -> Iterator[tuple[int, float, np.ndarray, float]]:
    """(index, seconds, image, seconds that decoding took) of each `every`-th frame."""
    capture = cv2.VideoCapture(str(file))
    rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
    index = 0
    while True:
        if index % every != offset:
            if not capture.grab():
                return
        else:
            started = time.perf_counter()
            ok, image = capture.read()
            if not ok:
                return
            yield index, index / rate, image, time.perf_counter() - started
        index += 1


def peak_mb() -> float:
    """Largest resident size of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = [x for x in status.read_text().splitlines() if x.startswith("VmHWM")]
        return int(lines[0].split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(load: Callable[[argparse.Namespace], System]) -> None:
    """Run one system over one clip."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--people", type=Path, nargs="*", default=[], help="NAME.png, NAME.jpg")
    parser.add_argument("--shared", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--limit", type=int, default=1 << 30, help="frames looked at")
    parser.add_argument("--runtime", default="onnxruntime", help="of edgeface")
    options = parser.parse_args()
    cv2.setNumThreads(options.threads)
    system = load(options)
    for file in options.people:
        portrait = cv2.imread(str(file))
        if portrait is None:
            raise SystemExit(f"{file}: OpenCV reads no picture there")
        system.enrol(file.stem, portrait)
    seconds, looked, seen = 0.0, 0, []
    cpu = 0.0
    for index, at, image, decoding in frames(options.clip, options.every, options.offset):
        if looked == options.limit:
            break
        started, used = time.perf_counter(), time.process_time()
        found = system.step(image, index, at)
        seconds += time.perf_counter() - started + decoding
        cpu += time.process_time() - used
        looked += 1
        seen += [[index, *map(float, box), name] for box, name in found]
    answer: dict[str, Any] = {"frames": looked, "seconds": seconds, "cpu_seconds": cpu}
    json.dump(answer | {"peak_mb": peak_mb(), "seen": seen}, sys.stdout)
