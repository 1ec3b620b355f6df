"""Shared fixtures. Test data beside the checkout is optional unless EDGEFACE_REQUIRE_SHARED=1."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_line import run  # noqa: F401 - a fixture

from edgeface.describe import Describer
from edgeface.detect import Detector
from edgeface.embed import Embedder
from edgeface.models import InputSpec, ModelCard
from edgeface.types import Face, Threshold

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
SAMPLE = ROOT / "examples" / "sample"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with test data and peer models; skips (or fails, when required) without it."""
    if not (SHARED / "data").is_dir():
        reason = "the test data folder shared/ is not beside the checkout"
        if os.environ.get("EDGEFACE_REQUIRE_SHARED") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return SHARED


@pytest.fixture(scope="session")
def sample() -> Path:
    """The folder of the committed sample clip and enrolment picture."""
    return SAMPLE


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator."""
    return np.random.default_rng(7)


class FakeSession:
    """A session whose network is a Python function."""

    runtime = "fake"

    def __init__(self, function: Callable[..., dict[str, np.ndarray]]) -> None:
        self._function = function
        self.calls: list[dict[str, np.ndarray]] = []

    def run(self, inputs):
        self.calls.append(dict(inputs))
        return self._function(**inputs)


@pytest.fixture
def embedding_card(tmp_path: Path) -> ModelCard:
    """A card of an imaginary embedder with eight numbers per face."""
    path, threshold = tmp_path / "toy.onnx", Threshold(0.5, "card")
    return ModelCard("toy", "embedding", path, "d" * 64, 8, threshold, InputSpec("image"))


def face(x: float, y: float, size: float = 40.0, score: float = 0.9, **fields) -> Face:
    """A frontal face with its box's top left corner at (x, y)."""
    box = np.array([x, y, x + size, y + size * 1.2], np.float32)
    unit = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], np.float32)
    landmarks = unit * [size, size * 1.2] + [x, y]
    return Face(box, landmarks.astype(np.float32), score, **fields)


def write_model(folder: Path, name: str, model: bytes, **card) -> Path:
    """Write a model file and its card; returns the card's path."""
    file = folder / f"{name}.onnx"
    file.write_bytes(model)
    fields = {
        "name": name,
        "task": "embedding",
        "file": file.name,
        "sha256": hashlib.sha256(model).hexdigest(),
        "embedding_size": 8,
        "input": {"name": "image"},
        "threshold": {"value": 0.5},
        **card,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(fields))
    return path


def picture(path: Path, shape=(64, 64, 3), **options) -> Path:
    """A random picture written as the suffix of `path` says."""
    image = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    assert cv2.imwrite(str(path), image, **options)
    return path


@pytest.fixture(autouse=True)
def children_end_unheard() -> Iterator[None]:
    """Take back the handler of ended children that a data loader of torch leaves behind: on it a
    later child's end brought the whole process down (the kernel could not deliver the signal)."""
    before = signal.getsignal(signal.SIGCHLD)
    yield
    if signal.getsignal(signal.SIGCHLD) is not before:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


@pytest.fixture(scope="session")
def describer() -> Describer:
    """The shipped detector and embedder."""
    return Describer(Detector.load(), Embedder.load())
