"""Labelled crops of the test data folder as embeddings, and the sets that parameters are chosen on.

The training identities are pins/train and CelebA; identities closer than 0.6 to an LFW person or to
each other's set by the teacher's mean embedding are left out, so nothing chosen on them has seen a
test person.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import DataError
from export.protocols.cached import cached
from export.protocols.pictures import stack

Floats = NDArray[np.float32]
Embed = Callable[[NDArray[np.uint8]], Floats]

FOLDERS = {
    "pins-train": "data/pins/train",
    "celeba": "data/faces/celeba",
    "pins-test": "data/pins/test",
    "lfw": "data/lfw/aligned112",
}
TEACHER = "edgeface_xs"
SAME = 0.6


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Unit embeddings (n, d) float32 with identity labels (n,) int64."""

    embeddings: Floats
    labels: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> Labelled:
        return Labelled(self.embeddings[rows], np.unique(self.labels[rows], return_inverse=True)[1])


@dataclass(frozen=True, slots=True)
class Source:
    """Where embeddings of one embedder come from: computed by `open_embed()` once per folder and
    kept under `cache`, by the name and, where the file of that name may change, its `stamp`. Of the
    identities of a folder only one in `every` is looked at, for runs that must be short."""

    name: str
    shared: Path
    cache: Path
    open_embed: Callable[[], Embed]
    stamp: str = ""
    every: int = 1

    def kept(self, which: str) -> Path:
        """The file of the embeddings of `which`."""
        part = "" if self.every == 1 else f".{self.every}th"
        return self.cache / f"{which}.{self.name}{self.stamp and '-' + self.stamp}{part}.npy"

    def files(self, which: str) -> list[Path]:
        """The crops of a folder in the order of their embeddings."""
        root = self.shared / FOLDERS[which]
        people = sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
        found = (p for person in people[:: self.every] for p in sorted(person.rglob("*")))
        files = [p for p in found if p.suffix in {".webp", ".png", ".jpg"}]
        if not files:
            raise DataError(f"{root}: no crops; --shared names the test data folder")
        return files

    def folder(self, which: str) -> Labelled:
        """All crops of a folder; identities are its subfolders."""
        root = self.shared / FOLDERS[which]
        files = self.files(which)
        names = [p.relative_to(root).parts[0] for p in files]
        kept = self.kept(which)
        rows = cached(kept, lambda: self._embed(files, kept))
        if len(rows) != len(files):
            raise DataError(f"{kept} has {len(rows)} rows for {len(files)} crops: delete it")
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return Labelled(rows.astype(np.float32), np.unique(names, return_inverse=True)[1])

    def _embed(self, files: list[Path], kept: Path) -> Floats:
        print(f"{self.name}: embedding {len(files)} crops for {kept}", file=sys.stderr)
        embed = self.open_embed()
        rows = []
        for start in range(0, len(files), 512):
            rows.append(embed(stack(files[start : start + 512])))
        return np.concatenate(rows)


def training_sets(source: Source, teacher: Source) -> dict[str, Labelled]:
    """Four sets of training identities, each like one use: `few people` (pins/train, 48 people of
    100 to 240 pictures), `mixed` (CelebA people of 5 and more, pins of heavy-tailed sizes), `many
    people` (all of CelebA kept, most with one or two pictures, and the same pins) and `singles`
    (of most people of both one picture). Nobody of LFW is in them."""
    celeba, pins = source.folder("celeba"), source.folder("pins-train")
    seen = {which: teacher.folder(which) for which in ("celeba", "pins-train", "lfw")}
    means = {which: _means(faces) for which, faces in seen.items()}
    near = (means["celeba"] @ means["lfw"].T).max(axis=1) > SAME
    near |= (means["celeba"] @ means["pins-train"].T).max(axis=1) > SAME
    pins = pins.take(
        np.flatnonzero(((means["pins-train"] @ means["lfw"].T).max(axis=1) <= SAME)[pins.labels])
    )
    kept = np.flatnonzero(~near[celeba.labels])
    sizes = np.bincount(celeba.labels)
    larger = kept[sizes[celeba.labels[kept]] >= 5]
    tail = _heavy_tail(pins.labels)
    return {
        "few people": pins,
        "mixed": _joined(celeba.take(larger), pins.take(tail)),
        "many people": _joined(celeba.take(kept), pins.take(tail)),
        "singles": _joined(_singles(celeba.take(kept), 0.675), _singles(pins, 6.0)),
    }


def _means(faces: Labelled) -> Floats:
    sums = np.zeros((int(faces.labels.max()) + 1, faces.embeddings.shape[1]), np.float32)
    np.add.at(sums, faces.labels, faces.embeddings)
    unit: Floats = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    return unit


def _heavy_tail(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    # The r-th identity of a random order keeps about 250 / r^0.75 pictures, at least 6.
    rng = np.random.default_rng(0)
    chosen = []
    for rank, identity in enumerate(rng.permutation(int(labels.max()) + 1)):
        rows = np.flatnonzero(labels == identity)
        chosen.append(rng.permutation(rows)[: max(6, int(250 / (1 + rank) ** 0.75))])
    return np.sort(np.concatenate(chosen))


def _singles(faces: Labelled, scale: float) -> Labelled:
    # Pictures per person as in LFW: one, and a Lomax tail of shape 1.35 (`scale` 0.675 there).
    rng = np.random.default_rng(7)
    chosen = []
    for identity in range(int(faces.labels.max()) + 1):
        rows = rng.permutation(np.flatnonzero(faces.labels == identity))
        chosen.append(rows[: 1 + min(200, int(rng.pareto(1.35) * scale))])
    return faces.take(np.sort(np.concatenate(chosen)))


def _joined(a: Labelled, b: Labelled) -> Labelled:
    labels = np.concatenate([a.labels, b.labels + a.labels.max() + 1])
    return Labelled(np.concatenate([a.embeddings, b.embeddings]), labels)
