"""Keeps what every track was made of, to show afterwards why it got its name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeface.aggregate import Aggregator
from edgeface.gallery import Gallery
from edgeface.plot import Curve
from edgeface.types import Array

LOOKS, TRACKS = 500, 200  # with 128 numbers a face at most 110 MB


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """One face that a track took in at `time` s, and the `template` (d,) it led to."""

    time: float
    embedding: Array
    quality: float
    template: Array


class Trace:
    """The faces of the tracks of a source, in the order they came.

    What it keeps is bounded, so that a camera can be watched for weeks: of a track with more than
    `LOOKS` faces every second one, and of more than `TRACKS` tracks those with the most faces.
    """

    def __init__(self) -> None:
        self._looks: dict[int, list[Look]] = {}
        self.left_out = 0  # tracks

    def note(self, track: int, look: Look) -> None:
        """Keep one face of a track."""
        looks = self._looks.setdefault(track, [])
        looks.append(look)
        if len(looks) > LOOKS:
            del looks[1:-1:2]
        if len(self._looks) > TRACKS:
            others = (t for t in self._looks if t != track)
            del self._looks[min(others, key=lambda t: len(self._looks[t]))]
            self.left_out += 1

    def curves(self, gallery: Gallery, aggregator: Aggregator, threshold: float) -> list[Curve]:
        """Every track against the person whom its last template resembles most."""
        found = []
        for track, looks in sorted(self._looks.items()):
            near = gallery.search(looks[-1].template, 1)
            if not near:
                continue
            samples = np.stack([s.embedding for s in gallery.samples(near[0].name)])
            rows = np.stack([look.embedding for look in looks])
            templates = np.stack([look.template for look in looks])
            mean = np.cumsum(rows, axis=0, dtype=np.float64)
            mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
            qualities = np.array([look.quality for look in looks], np.float32)
            name, last = near[0].name, near[0].similarity
            verdict = name if last >= threshold else f"unknown, nearest {name}"
            found.append(
                Curve(
                    f"track {track}: {verdict} ({last:.2f}, {len(looks)} faces)",
                    np.array([look.time for look in looks], np.float32),
                    (rows @ samples.T).max(axis=1),
                    aggregator.shares(rows, qualities),
                    (templates @ samples.T).max(axis=1),
                    (mean @ samples.T).max(axis=1).astype(np.float32),
                    threshold,
                    last >= threshold,
                )
            )
        return found
