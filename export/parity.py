"""`python -m export parity`: does every exported file still say what its checkpoint says?

On real faces, in both runtimes (an .xml in OpenVINO only), at batch 1 and 32: mean and worst cosine
to the checkpoint's embedding, and what LFW accuracy and TAR at FAR 1e-3 lose. Exit code 1 when a
file misses its budget in either. Files are opened as `edgeface` opens them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from export.gate import BUDGETS, ROUNDING, by_file, runtimes
from export.protocols.lfw import read_lfw, verify
from export.teachers import to_input
from export.to_onnx import load_network
from export.training import as_tensor

Floats = NDArray[np.float32]


def by_checkpoint(path: Path, images: NDArray[np.uint8]) -> Floats:
    network, _ = load_network(path)
    rows = []
    with torch.no_grad():
        for i in range(0, len(images), 32):
            rows.append(network(as_tensor(to_input(images[i : i + 32]))).numpy())
    out = np.concatenate(rows)
    unit: Floats = out / np.linalg.norm(out, axis=1, keepdims=True)
    return unit


def compare(
    file: Path, checkpoint: Floats, images: NDArray[np.uint8], *pairs: NDArray[np.generic]
) -> tuple[dict[str, float], list[str]]:
    """Figures of one file and what it misses."""
    budget = BUDGETS["int8" if "int8" in file.stem else "float"]
    figures: dict[str, float] = {}
    misses = []
    before = verify(checkpoint, *pairs)  # type: ignore[arg-type]
    for runtime in runtimes(file):
        for batch in (32, 1):
            out = by_file(file, runtime, images, batch)
            cosine = (out * checkpoint).sum(1)
            after = verify(out, *pairs)  # type: ignore[arg-type]
            own = {
                "cosine_mean": float(cosine.mean()),
                "cosine_min": float(cosine.min()),
                "lfw_change": after["lfw"] - before["lfw"],
                "tar_change": after["tar_at_far1e-3"] - before["tar_at_far1e-3"],
            }
            checks = {
                "cosine_mean": own["cosine_mean"] >= budget.mean,
                "cosine_min": own["cosine_min"] >= budget.worst,
                "lfw_change": own["lfw_change"] >= -budget.lfw - ROUNDING,
                "tar_change": own["tar_change"] >= -budget.tar - ROUNDING,
            }
            where = f"{file.name} in {runtime}, batch {batch}"
            misses += [f"{where}: {k} {own[k]:.5f}" for k, ok in checks.items() if not ok]
            stem = f"{file.stem}{file.suffix}.{runtime}.b{batch}"
            figures |= {f"{stem}.{k}": v for k, v in own.items()}
    return figures, misses


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export parity", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("files", nargs="+", type=Path, help=".onnx or .xml; int8 in the name")
    parser.add_argument("--lfw", type=Path, required=True, help="folder with pairs.txt, aligned112")
    parser.add_argument("--folds", type=int, default=10, help="of LFW, at least 2")
    args = parser.parse_args(argv)
    images, *pairs = read_lfw(args.lfw, folds=args.folds)
    reference = by_checkpoint(args.checkpoint, images)
    figures: dict[str, float] = {}
    misses: list[str] = []
    for file in args.files:
        own, missed = compare(file, reference, images, *pairs)
        figures |= own
        misses += missed
    print(json.dumps(figures, indent=1))
    for miss in misses:
        print(f"parity: past the budget: {miss}", file=sys.stderr)
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
