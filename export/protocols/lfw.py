"""LFW View 2: the official pairs, and what similarities of them say of an embedder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.metrics import equal_error_rate, tar_at_far, verification_accuracy
from export.protocols.pictures import stack

Floats = NDArray[np.float32]


def lfw_pairs(file: Path, folds: int = 10) -> list[tuple[str, str, bool, int]]:
    """(first, second, same, fold) of the official pairs file; pictures as NAME/NAME_0001."""
    lines = file.read_text().splitlines()
    per_fold = 2 * int(lines[0].split()[1])
    pairs = []
    for i, line in enumerate(line for line in lines[1:] if line.strip()):
        f = line.split("\t")
        if len(f) == 3:
            a, b = (f[0], f[1]), (f[0], f[2])
        else:
            a, b = (f[0], f[1]), (f[2], f[3])
        names = [f"{n}/{n}_{int(k):04d}" for n, k in (a, b)]
        if i // per_fold < folds:
            pairs.append((names[0], names[1], len(f) == 3, i // per_fold))
    return pairs


def read_lfw(
    root: Path, *, folds: int = 10
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Pictures, (pairs, 2) row numbers, same, fold."""
    pairs = lfw_pairs(root / "pairs.txt", folds)
    names = sorted({n for a, b, *_ in pairs for n in (a, b)})
    row = {n: i for i, n in enumerate(names)}
    images = stack(root / "aligned112" / f"{n}.webp" for n in names)
    index = np.array([[row[a], row[b]] for a, b, *_ in pairs])
    same = np.array([s for *_, s, _ in pairs])
    return images, index, same, np.array([f for *_, f in pairs])


def verify(
    embeddings: Floats, index: NDArray[np.int64], same: NDArray[np.bool_], fold: NDArray[np.int64]
) -> dict[str, float]:
    """Accuracy in percent (mean, standard deviation over the folds), TAR at FAR 1e-3, EER."""
    similarity = (embeddings[index[:, 0]] * embeddings[index[:, 1]]).sum(1)
    accuracy = verification_accuracy(similarity, same, fold)
    return {
        "lfw": float(100 * accuracy.mean()),
        "lfw_std": float(100 * accuracy.std()),
        "tar_at_far1e-3": float(100 * tar_at_far(similarity, same, 1e-3)),
        "eer": float(100 * equal_error_rate(similarity, same)),
    }
