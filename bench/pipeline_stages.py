"""Where the time of a frame goes: wall milliseconds per stage, each without what it calls."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import edgeface as ef
from bench.pipeline_clips import Clip
from edgeface import describe, draw, follow, images, recognisability, track


class Stopwatch:
    """Adds up seconds under names; time spent in a nested name is not counted twice."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner: list[float] = []

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the time within under `name`."""
        self._inner.append(0.0)
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            own = spent - self._inner.pop()
            self.seconds[name] = self.seconds.get(name, 0.0) + own
            if self._inner:
                self._inner[-1] += spent

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, counted under `name`."""

        def counted(*args: Any, **options: Any) -> Any:
            with self(name):
                return function(*args, **options)

        return counted


@contextlib.contextmanager
def watched(app: ef.Identifier, watch: Stopwatch) -> Iterator[None]:
    """Count the stages of a running identifier. What is left of a step is `follow`."""
    tracker = track.Tracker
    places: list[tuple[Any, str, str]] = [
        (app.describer, "detector", "detect"),
        (app.describer.describe, "embedder", "embed"),
        (describe, "align", "align"),
        (describe, "rate", "quality"),
        (recognisability.Recogniser, "__call__", "quality"),
        (follow, "decide_together", "decide"),
        (tracker, "update", "track"),
        (app.gallery, "search", "gallery"),
    ]
    kept = [(place, name, getattr(place, name)) for place, name, _ in places]
    for (place, name, old), (_, _, stage) in zip(kept, places, strict=True):
        if name in {"detector", "embedder"}:
            counted: Any = _Counted(old, watch, stage)
        else:
            counted = watch.around(stage, old)
        setattr(place, name, counted)
    try:
        app.reset()
        yield
    finally:
        for place, name, old in kept:
            setattr(place, name, old)


class _Counted:
    """A network whose calls are counted; all else is the network's."""

    def __init__(self, network: Any, watch: Stopwatch, stage: str) -> None:
        self._network, self._watch, self._stage = network, watch, stage

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._network, name)
        return self._watch.around(self._stage, found) if name in {"within", "measure"} else found

    def __call__(self, image: Any) -> Any:
        with self._watch(self._stage):
            return self._network(image)


def breakdown(clip: Clip, *, runtime: str, threads: int, limit: int) -> dict[str, float]:
    """Milliseconds per frame and stage, drawing the overlay included."""
    cv2.setNumThreads(threads)
    watch, count = Stopwatch(), 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stages.gallery"
        app = ef.Identifier.open(path, runtime=runtime, threads=threads)  # type: ignore[arg-type]
        with app:
            for file in clip.people:
                app.enroll(file.stem, [images.read(file)], policy="largest")
            with watched(app, watch):
                capture = cv2.VideoCapture(str(clip.file))
                rate = capture.get(cv2.CAP_PROP_FPS)
                while count < limit:
                    with watch("decode"):
                        ok, picture = capture.read()
                    if not ok:
                        break
                    image = np.asarray(picture, np.uint8)
                    with watch("follow"):
                        app.step(ef.Frame(image, count / rate, count))
                    with watch("draw"):
                        draw.overlay(image, app.sightings)
                    count += 1
    return {name: 1000 * spent / count for name, spent in watch.seconds.items()}
