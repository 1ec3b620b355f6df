"""`python -m export parity`: does every exported file still say what its checkpoint says?

On real faces, in both runtimes (an .xml in OpenVINO only): mean and worst cosine to the
checkpoint's embedding, and what accuracy on LFW's pairs and TAR at FAR 1e-3 lose. Exit code 1 when
a file misses its budget in either. Faces go in 32 at a time, and `ALONE` of them one at a time,
which must say the same. Accuracy is that of the best threshold: one chosen on other folds may lie
anywhere on a plateau, which moved a file with a cosine of .999998 by .18 points. Files are opened
as `edgeface` opens them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgeface.metrics import best_threshold, tar_at_far
from export.gate import BUDGETS, ROUNDING, by_file, runtimes
from export.protocols.lfw import read_lfw
from export.teachers import to_input
from export.to_onnx import load_network
from export.training import as_tensor

Floats = NDArray[np.float32]
ALONE = 256  # faces that also go in one at a time


def by_checkpoint(path: Path, images: NDArray[np.uint8]) -> Floats:
    network, _ = load_network(path)
    rows = []
    with torch.no_grad():
        for i in range(0, len(images), 32):
            rows.append(network(as_tensor(to_input(images[i : i + 32]))).numpy())
    out = np.concatenate(rows)
    unit: Floats = out / np.linalg.norm(out, axis=1, keepdims=True)
    return unit


def verified(
    embeddings: Floats, index: NDArray[np.int64], same: NDArray[np.bool_]
) -> tuple[float, float]:
    """Accuracy at the best threshold and TAR at FAR 1e-3, percent."""
    similarity = (embeddings[index[:, 0]] * embeddings[index[:, 1]]).sum(1)
    right = (similarity >= best_threshold(similarity, same)) == same
    return float(100 * right.mean()), float(100 * tar_at_far(similarity, same, 1e-3))


def compare(
    file: Path,
    checkpoint: Floats,
    images: NDArray[np.uint8],
    index: NDArray[np.int64],
    same: NDArray[np.bool_],
) -> tuple[dict[str, float], list[str]]:
    """Figures of one file and what it misses."""
    budget = BUDGETS["int8" if "int8" in file.stem else "float"]
    figures: dict[str, float] = {}
    misses = []
    accuracy, tar = verified(checkpoint, index, same)
    for runtime in runtimes(file):
        out = by_file(file, runtime, images, 32)
        alone = by_file(file, runtime, images[:ALONE], 1)
        cosine = (out * checkpoint).sum(1)
        after = verified(out, index, same)
        own = {
            "cosine_mean": float(cosine.mean()),
            "cosine_min": float(cosine.min()),
            "alone_min": float((alone * out[:ALONE]).sum(1).min()),
            "lfw_change": after[0] - accuracy,
            "tar_change": after[1] - tar,
        }
        checks = {
            "cosine_mean": own["cosine_mean"] >= budget.mean,
            "cosine_min": own["cosine_min"] >= budget.worst,
            "alone_min": own["alone_min"] >= budget.worst,
            "lfw_change": own["lfw_change"] >= -budget.lfw - ROUNDING,
            "tar_change": own["tar_change"] >= -budget.tar - ROUNDING,
        }
        where = f"{file.name} in {runtime}"
        misses += [f"{where}: {k} {own[k]:.5f}" for k, ok in checks.items() if not ok]
        figures |= {f"{file.stem}{file.suffix}.{runtime}.{k}": v for k, v in own.items()}
    return figures, misses


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export parity", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("files", nargs="+", type=Path, help=".onnx or .xml; int8 in the name")
    parser.add_argument("--lfw", type=Path, required=True, help="folder with pairs.txt, aligned112")
    parser.add_argument("--folds", type=int, default=10, help="of LFW, at least 2")
    args = parser.parse_args(argv)
    images, index, same, _ = read_lfw(args.lfw, folds=args.folds)
    reference = by_checkpoint(args.checkpoint, images)
    figures: dict[str, float] = {}
    misses: list[str] = []
    for file in args.files:
        own, missed = compare(file, reference, images, index, same)
        figures |= own
        misses += missed
    print(json.dumps(figures, indent=1))
    for miss in misses:
        print(f"parity: past the budget: {miss}", file=sys.stderr)
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
