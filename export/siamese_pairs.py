"""Lists of pairs, `PICTURE PICTURE SAME` a line, to train `siamese` on and to judge it by.

A crop of 112×112 is taken as it is; of another picture the largest face is cut out. A pair of a
picture with itself teaches nothing and is left out. Two pictures are of one person where a line
says so, directly or by others between them; of two people where a line says that of their people,
and of all others nothing is known. A quarter of the people is held out, and lines between them and
the rest are used by neither side.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface import images
from edgeface.detect import Detector
from edgeface.errors import DataError, ImageError
from edgeface.metrics import best_f1_threshold, best_threshold, verified
from edgeface.pairs import Pair, read_pairs
from export.aligned import crop_of
from export.losses import contrastive
from export.protocols.pictures import Image

Ints = NDArray[np.int64]
CROP = (112, 112, 3)
HELD = 4  # one person of so many is held out
CURVE = np.arange(0, 100) / 100  # thresholds


@dataclass(frozen=True, slots=True, eq=False)
class Listed:
    """Crops `images` (n, 112, 112, 3) and their `files`; `index` (m, 2) and `same` (m,) of the
    pairs; `itself` lines named one file twice."""

    images: Image
    files: list[Path]
    index: Ints
    same: NDArray[np.bool_]
    itself: int

    def people(self) -> Ints:
        """A number (n,) for each picture, equal for pictures of one person."""
        return joined(len(self.files), self.index[self.same])

    def among(self, rows: NDArray[np.bool_]) -> tuple[Ints, NDArray[np.bool_]]:
        """`index` and `same` of the pairs of which both pictures are `rows` (n,)."""
        inside = rows[self.index].all(axis=1)
        return self.index[inside], self.same[inside]


def joined(n: int, index: Ints) -> Ints:
    """A number (n,) for each of n things, equal where the pairs `index` (m, 2) join them."""
    parent = np.arange(n)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = int(parent[parent[i]])
        return i

    for a, b in index:
        parent[max(root(a), root(b))] = min(root(a), root(b))
    return np.unique([root(i) for i in range(n)], return_inverse=True)[1]


def read_list(file: Path, root: Path | None = None) -> Listed:
    """Read a list and its pictures, below `root`, by default the list's folder; those that cannot
    be read or show no face are told on stderr and left out.

    Raises:
        DataError: see `edgeface.pairs.read_pairs`; or no pair is left of one kind or the other.
    """
    pairs = read_pairs(file, file.parent if root is None else root)
    different = [pair for pair in pairs if pair.first != pair.second]
    crops = _crops(different)
    kept = [pair for pair in different if pair.first in crops and pair.second in crops]
    files = list(dict.fromkeys(p for pair in kept for p in (pair.first, pair.second)))
    row = {picture: i for i, picture in enumerate(files)}
    same = np.array([pair.same for pair in kept], bool)
    if same.all() or not same.any():
        raise DataError(
            f"{file}: {int(same.sum())} pairs of one person and {int((~same).sum())} of two are "
            "left, expected some of each, of different files"
        )
    index = np.array([[row[pair.first], row[pair.second]] for pair in kept])
    stacked = np.stack([crops[picture] for picture in files])
    return Listed(stacked, files, index, same, len(pairs) - len(different))


def _crops(pairs: Sequence[Pair]) -> dict[Path, Image]:
    detector, found = None, dict[Path, Image]()
    for picture in dict.fromkeys(p for pair in pairs for p in (pair.first, pair.second)):
        try:
            crop: Image | None = np.asarray(images.read(picture), np.uint8)
            if crop is not None and crop.shape != CROP:
                detector = detector or Detector.load("detector")
                crop = crop_of(detector, picture)
        except ImageError as error:
            print(f"siamese: {error}", file=sys.stderr)
            continue
        if crop is None:
            print(f"siamese: no face in {picture}, left out", file=sys.stderr)
        else:
            found[picture] = crop
    return found


def hold_out(listed: Listed) -> NDArray[np.bool_]:
    """Which pictures (n,) are of people held out: a quarter of them, by lot.

    Raises:
        DataError: either side has no pairs of one person or none of two.
    """
    person = listed.people()
    held = np.random.default_rng(0).permutation(int(person.max()) + 1) % HELD == 0
    for rows, whose in ((held[person], "held out"), (~held[person], "trained on")):
        _, same = listed.among(rows)
        if same.all() or not same.any():
            raise DataError(
                f"{int(same.sum())} pairs of one person and {int((~same).sum())} of two are among "
                f"the people {whose}, a part of the list by lot; expected some of each: give a "
                "longer list"
            )
    return np.asarray(held[person])


class PairCourse:
    """Batches of a list's pairs, as many of one person as of two, a function of (seed, step)."""

    def __init__(
        self, listed: Listed, rows: NDArray[np.bool_], *, size: int, loss: str, margin: float,
        seed: int,
    ) -> None:  # fmt: skip
        index, same = listed.among(rows)
        self._alike, self._apart = index[same], index[~same]
        self._person = listed.people()
        self._size, self._loss, self._margin, self._seed = size, loss, margin, seed
        # Positive pairs that a negative one begins or ends at: of others no triplet is known.
        self._of = [np.flatnonzero((self._person[self._apart] == p).any(axis=1))
                    for p in self._person[self._alike[:, 0]]]  # fmt: skip
        if loss == "triplet" and not any(len(own) for own in self._of):
            raise DataError("no person of a pair of one is in a pair of two: take contrastive")

    def at(self, step: int) -> Ints:
        """Rows (2·B,), the two of a pair B apart; for triplets (3·B,)."""
        rng = np.random.default_rng([self._seed, step])
        if self._loss == "contrastive":
            half = self._size // 2
            chosen = [rng.choice(part, half) for part in (self._alike, self._apart)]
            return np.concatenate(chosen).T.reshape(-1)
        able = np.flatnonzero([len(own) > 0 for own in self._of])
        triplets = []
        for i in rng.choice(able, self._size):
            other = self._apart[rng.choice(self._of[i])]
            who = self._person[other] != self._person[self._alike[i, 0]]
            anchor, positive = rng.permutation(self._alike[i])
            triplets.append((anchor, positive, other[who][0] if who.any() else other[0]))
        return np.array(triplets).T.reshape(-1)

    def loss(self, out: Tensor, rows: Ints) -> Tensor:
        """Of the embeddings of the `rows` of `at`."""
        if self._loss == "contrastive":
            half = len(out) // 2
            same = torch.arange(half, device=out.device) < half // 2
            return contrastive(out[:half], out[half:], same, margin=self._margin)
        unit = nn.functional.normalize(out, dim=1)
        anchor, positive, negative = unit.chunk(3)
        far = ((anchor - positive).square().sum(1) + 1e-12).sqrt()
        near = ((anchor - negative).square().sum(1) + 1e-12).sqrt()
        return (far - near + self._margin).clamp(min=0).mean()


def scores(embeddings: NDArray[np.float32], index: Ints) -> NDArray[np.float32]:
    """Cosines (m,) of the pairs of unit rows."""
    return np.asarray((embeddings[index[:, 0]] * embeddings[index[:, 1]]).sum(axis=1))


def curve(similarity: NDArray[np.float32], same: NDArray[np.bool_]) -> dict[str, list[float]]:
    """Accuracy and F1 at every threshold of `CURVE`."""
    found = [verified(similarity, same, float(t)) for t in CURVE]
    return {
        "threshold": [float(t) for t in CURVE],
        "accuracy": [v.accuracy for v in found],
        "f1": [v.f1 for v in found],
    }


def best(similarity: NDArray[np.float32], same: NDArray[np.bool_]) -> dict[str, float]:
    """The highest accuracy and F1 over all thresholds."""
    at = {
        "accuracy": verified(similarity, same, best_threshold(similarity, same)).accuracy,
        "f1": verified(similarity, same, best_f1_threshold(similarity, same)).f1,
    }
    return {name: round(value, 5) for name, value in at.items()}


def draw(curves: dict[str, dict[str, list[float]]], target: Path) -> None:
    """Both curves before and after, PNG, and the numbers beside it as JSON."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for panel, name in zip(panels, ("f1", "accuracy"), strict=True):
        for when, line in curves.items():
            panel.plot(line["threshold"], line[name], label=when)
        panel.set_xlabel("threshold (cosine)")
        panel.set_ylabel(name.replace("f1", "F1"))
        panel.legend()
    figure.tight_layout()
    figure.savefig(target, dpi=120)
    plt.close(figure)
    target.with_suffix(".json").write_text(json.dumps(curves, indent=1) + "\n")


def vary(crops: Image, rng: np.random.Generator) -> Image:
    """Crops as the origin varies its pictures: turned by up to 15 degrees, mirrored every second
    time, and brightness, contrast and saturation changed by up to three tenths."""
    out = np.empty_like(crops)
    for i, crop in enumerate(crops):
        size = crop.shape[1::-1]
        turn = cv2.getRotationMatrix2D((size[0] / 2, size[1] / 2), rng.uniform(-15, 15), 1.0)
        turned = cv2.warpAffine(crop, turn, size, borderMode=cv2.BORDER_REPLICATE)
        values = turned.astype(np.float32)
        bright, contrast, saturation = rng.uniform(0.7, 1.3, 3)
        values *= bright
        values = (values - values.mean()) * contrast + values.mean()
        grey = values.mean(axis=2, keepdims=True)
        values = np.clip((values - grey) * saturation + grey, 0, 255).astype(np.uint8)
        out[i] = values[:, ::-1] if rng.random() < 0.5 else values
    return out
