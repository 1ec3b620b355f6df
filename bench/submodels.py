"""Which submodel rule to pick: Single, ISM, k-means + MaxMax, MixMaxSim, Sim, fold.

Real set: every identity of the shared crops with at least 10 images (LFW, Pins, CelebA; people of
two sets counted once), at most 30 images each, embedded by a teacher. Synthetic sets: unit class
centres with the real embeddings' within-class spread, N = 1k to 100k.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CACHE = Path(__file__).parents[1] / "runs" / "submodels"
MIN_IMAGES, MAX_IMAGES, UNKNOWNS = 10, 30, 2000
SAME_PERSON = 0.6  # teacher cosine of two means beyond which two labels are one person


def _folders(shared: Path) -> list[tuple[str, list[Path]]]:
    """Every identity folder of the shared crops and its pictures, sorted."""
    data = shared / "data"
    roots = [
        data / "lfw/aligned112",
        data / "pins/train",
        data / "pins/test",
        data / "faces/celeba",
    ]
    found = []
    for root in roots:
        for folder in sorted(p for p in root.rglob("*") if p.is_dir()):
            pictures = sorted(folder.glob("*.webp"))
            if pictures:
                found.append((str(folder.relative_to(data)), pictures))
    return found


def _person(folder: str) -> str:
    """Names two sets share become one: letters only, lower case. CelebA's are numbers."""
    name = Path(folder).name
    letters = re.sub("[^a-z]", "", name.lower().removeprefix("pins_"))
    return letters if letters else folder


def embed(shared: Path, teacher: str) -> dict[str, NDArray]:
    """Embeddings of known (>= 10 images) and unknown people by `teacher`, cached in runs/."""
    cached = CACHE / f"{teacher}.npz"
    if cached.exists():
        return dict(np.load(cached))
    import cv2
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(shared / "models/teachers" / f"{teacher}.onnx"), providers=["CPUExecutionProvider"]
    )
    known: dict[str, list[Path]] = {}
    unknown: list[Path] = []
    for folder, pictures in _folders(shared):
        if len(pictures) >= MIN_IMAGES:
            known.setdefault(_person(folder), pictures[:MAX_IMAGES])
        elif len(pictures) == 1 and folder.startswith("lfw"):
            unknown += pictures
    unknown = unknown[:: max(1, len(unknown) // UNKNOWNS)][:UNKNOWNS]
    paths = [p for pictures in known.values() for p in pictures] + unknown
    labels = [i for i, pictures in enumerate(known.values()) for _ in pictures]
    labels += [-1] * len(unknown)
    rows = []
    for start in range(0, len(paths), 32):
        batch = np.stack([cv2.imread(str(p))[:, :, ::-1] for p in paths[start : start + 32]])
        x = batch.transpose(0, 3, 1, 2).astype(np.float32)
        if teacher == "edgeface_xs":
            x = (x / 255 - 0.5) / 0.5
        y = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(x)})[0]
        rows.append(y / np.linalg.norm(y, axis=1, keepdims=True))
    arrays = {"x": np.concatenate(rows).astype(np.float32), "y": np.asarray(labels)}
    CACHE.mkdir(parents=True, exist_ok=True)
    np.savez(cached, **arrays)
    return arrays


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("shared", type=Path)
    parser.add_argument("teacher")
    args = parser.parse_args()
    arrays = embed(args.shared, args.teacher)
    print(arrays["x"].shape, arrays["y"].max() + 1)
