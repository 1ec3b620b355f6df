"""This project, as a loop of one's own would use it."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import protocol

import edgeface as ef


class Edgeface:
    def __init__(self, options: argparse.Namespace) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._app = ef.Identifier.open(
            Path(self._folder.name) / "bench.gallery",
            runtime=options.runtime,
            threads=options.threads,
        )

    def enrol(self, name: str, image: np.ndarray) -> None:
        self._app.enroll(name, [image], policy="largest")

    def step(self, image: np.ndarray, index: int, seconds: float) -> list[protocol.Seen]:
        self._app.step(ef.Frame(image, seconds, index))
        return [(tuple(s.face.box), s.decision.name) for s in self._app.sightings]


if __name__ == "__main__":
    protocol.main(Edgeface)
