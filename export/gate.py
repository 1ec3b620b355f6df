"""How far an exported file may be from what it was made of, and what it says in each runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.runtime import Runtime, open_session
from export.teachers import to_input

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Budget:
    """Least mean and worst cosine; most LFW accuracy and TAR lost, in points."""

    mean: float
    worst: float
    lfw: float
    tar: float


# Changes are differences of sums of floats: one that equals its budget must not miss it.
ROUNDING = 1e-9
BUDGETS = {
    "float": Budget(0.99999, 0.9999, 0.02, 0.1),
    "int8": Budget(0.995, 0.98, 0.15, 1.5),
    # A foreign network is not known well enough to be fine-tuned, and 512 numbers hide more: at a
    # cosine of .994, .982 at worst, w600k_mbf had 99.75 % on two folds of LFW in OpenVINO. The TAR
    # on the user's own faces decides. `python -m bench adopt` measures all ten folds.
    "adopted": Budget(0.99, 0.97, 0.15, 1.5),
}


def by_file(path: Path, runtime: Runtime, images: NDArray[np.uint8], batch: int) -> Floats:
    """Embeddings by a file; the last batch may be shorter."""
    session = open_session(path, runtime=runtime, threads=2)
    rows = [
        session.run({"image": to_input(images[i : i + batch])})["embedding"]
        for i in range(0, len(images), batch)
    ]
    return np.concatenate(rows)


def runtimes(path: Path) -> tuple[Runtime, ...]:
    """Those that read a file."""
    return ("openvino",) if path.suffix == ".xml" else ("onnxruntime", "openvino")
