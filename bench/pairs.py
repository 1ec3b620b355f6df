"""What Face Matching's pairs say of a model, beside LFW's own.

The original draws a picture of LFW, and by a fair coin a picture of the same person, which may be
the picture itself, or one of somebody else; it splits pictures, not people, chooses the threshold
on the pairs that it reports, and gives the best F1 and accuracy over thresholds. Of most people of
LFW there is one picture, so that most pairs of one person are a picture with itself.

`origin` draws pairs that way, of every fifth picture by lot; `distinct` leaves out pairs of one
file. `folds` are the official pairs, the threshold of each fold of ten chosen on the other nine,
nobody in two folds. `same_file` is no model: one person where it is one file. `pixels` compares 16
by 16 grey pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface import Embedder
from edgeface.errors import DataError
from edgeface.metrics import best_f1_threshold, best_threshold, verified
from export.aims import units
from export.protocols.lfw import lfw_pairs
from export.protocols.pictures import Image, stack

Figures = dict[str, float | str | None]
Floats = NDArray[np.float32]
PAIRS = 500  # as many as the original's test list has
SHARE = 5  # one picture of so many is for testing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--embedder", default="mobilefacenet", help="shipped model, or a file")
    parser.add_argument("--lfw", type=Path, help="folder with pairs.txt and aligned112")
    parser.add_argument("--seeds", type=int, default=10, help="lists drawn as the original's")


def figures(args: argparse.Namespace) -> Figures:
    root = args.lfw or args.shared / "data" / "lfw"
    files = sorted((root / "aligned112").glob("*/*.webp"))
    if not files:
        raise DataError(f"{root}: expected aligned112/NAME/NAME_0001.webp and pairs.txt")
    embedder = Embedder.load(args.embedder)
    looks: dict[str, Callable[[Image], Floats]] = {"pixels": pixels, "model": embedder}
    drawn = [origin_pairs(files, seed) for seed in range(2 if args.quick else args.seeds)]
    official = lfw_pairs(root / "pairs.txt", 2 if args.quick else 10)
    of_folds = [
        (root / "aligned112" / f"{a}.webp", root / "aligned112" / f"{b}.webp")
        for a, b, *_ in official
    ]
    pictures = sorted({p for pairs, _ in drawn for pair in pairs for p in pair}
                      | {p for pair in of_folds for p in pair})  # fmt: skip
    row = {picture: i for i, picture in enumerate(pictures)}
    seen = {name: embedded(pictures, look) for name, look in looks.items()}
    alike = [np.mean([a == b for (a, b), s in zip(pairs, same, strict=True) if s])
             for pairs, same in drawn]  # fmt: skip
    out: Figures = {
        "pairs.embedder": embedder.card.name,
        "pairs.origin.positives_of_one_file": float(np.mean(alike)),
        "pairs.origin.lists": float(len(drawn)),
    }

    def similarity(name: str, pairs: list[tuple[Path, Path]]) -> Floats:
        if name == "same_file":
            return np.array([float(a == b) for a, b in pairs], np.float32)
        first, second = (seen[name][[row[p] for p in side]] for side in zip(*pairs, strict=True))
        return np.asarray((first * second).sum(axis=1))

    for name in ("same_file", *looks):
        both: dict[str, list[dict[str, float]]] = {"origin": [], "distinct": []}
        for pairs, same in drawn:
            apart = np.array([a != b for a, b in pairs])
            found = similarity(name, pairs)
            both["origin"].append(best(found, same))
            if same[apart].any():
                both["distinct"].append(best(found[apart], same[apart]))
        for key, lists in both.items():
            out |= {f"pairs.{key}.{name}.{m}": float(np.mean([v[m] for v in lists])) if lists
                    else None for m in ("f1", "accuracy")}  # fmt: skip
        told = np.array([s for _, _, s, _ in official]), np.array([f for *_, f in official])
        ours = by_folds(similarity(name, of_folds), *told)
        out |= {f"pairs.folds.{name}.{metric}": value for metric, value in ours.items()}
    return out


def origin_pairs(files: list[Path], seed: int) -> tuple[list[tuple[Path, Path]], NDArray[np.bool_]]:
    """`PAIRS` pairs as the original draws them from every fifth picture, and which are of one
    person."""
    rng = np.random.default_rng(seed)
    some = [files[i] for i in np.sort(rng.permutation(len(files))[: max(2, len(files) // SHARE)])]
    of: dict[str, list[Path]] = {}
    for file in some:
        of.setdefault(file.parent.name, []).append(file)
    if len(of) < 2:
        raise DataError("pictures of two people and more are needed")
    pairs, same = [], rng.random(PAIRS) < 0.5
    for alike in same:
        first = some[rng.integers(len(some))]
        own = of[first.parent.name]
        second = own[rng.integers(len(own))]
        while not alike and second.parent == first.parent:
            second = some[rng.integers(len(some))]
        pairs.append((first, second))
    return pairs, same


def best(similarity: Floats, same: NDArray[np.bool_]) -> dict[str, float]:
    """Highest F1 and accuracy over the thresholds of these very pairs, as the original has them."""
    return {
        "f1": verified(similarity, same, best_f1_threshold(similarity, same)).f1,
        "accuracy": verified(similarity, same, best_threshold(similarity, same)).accuracy,
    }


def by_folds(
    similarity: Floats, same: NDArray[np.bool_], fold: NDArray[np.int64]
) -> dict[str, float]:
    """Mean F1 and accuracy of the folds, each at the threshold that is best on the others."""
    rows = []
    for own in np.unique(fold):
        test = fold == own
        rest = similarity[~test], same[~test]
        at = (verified(similarity[test], same[test], best_f1_threshold(*rest)).f1,
              verified(similarity[test], same[test], best_threshold(*rest)).accuracy)  # fmt: skip
        rows.append(at)
    f1, accuracy = np.mean(rows, axis=0)
    return {"f1": float(f1), "accuracy": float(accuracy)}


def pixels(crops: Image) -> Floats:
    """Unit rows of 16 by 16 grey pixels less their mean."""
    small = [
        cv2.resize(cv2.cvtColor(c, cv2.COLOR_BGR2GRAY), (16, 16), interpolation=cv2.INTER_AREA)
        for c in crops
    ]
    rows = np.stack(small).reshape(len(crops), -1).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    return units(rows)


def embedded(pictures: list[Path], look: Callable[[Image], Floats]) -> Floats:
    """A row for each picture."""
    return np.concatenate(
        [look(stack(pictures[i : i + 256])) for i in range(0, len(pictures), 256)]
    )
