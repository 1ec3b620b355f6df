"""What every training on class folders needs: the pack, an identity-disjoint validation split,
P×K batches, the figure early stopping goes by, a progress bar and the picture of the curves."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgeface.metrics import equal_error_rate, tar_at_far
from export.data import Pack, hold_out, list_crops, open_pack, pack

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class DataError(ValueError):
    """The data cannot be trained on; the message says what is missing."""


def open_data(path: Path, out: Path) -> tuple[Path, Pack]:
    """A pack (path without suffix) as it is, a folder with one sub-folder per person packed into
    `out`/pack first. DataError when there is neither or no person is told apart."""
    if path.with_suffix(".npy").exists() and not path.is_dir():
        return path, open_pack(path)
    if not path.is_dir():
        raise DataError(f"{path} is neither a folder of people nor a pack of `export pack`")
    target = out / "pack"
    if not target.with_suffix(".npy").exists():
        rows = [row for row in list_crops(path, set()) if row.identity]
        if not rows:
            raise DataError(f"{path} has no sub-folders with pictures; one per person is needed")
        pack(rows, target)
    return target, open_pack(target)


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Rows of a pack to train on and to validate on, no person in both; `label` (N,) numbers the
    trained people from 0 to `classes` - 1, -1 for other rows."""

    train: Ints
    held: Ints
    label: Ints
    classes: int

    def names(self, data: Pack) -> list[str]:
        """Who is held out."""
        return [data.names[number] for number in np.unique(data.identity[self.held])]


def split_people(data: Pack, *, least: int = 2) -> Split:
    """Those whom `hold_out` keeps from every training, and the others; people with fewer than
    `least` pictures are left out. DataError when fewer than two remain on either side."""
    rows = np.flatnonzero(data.keep & (data.identity >= 0))
    people, counts = np.unique(data.identity[rows], return_counts=True)
    people = people[counts >= least]
    kept = np.isin(people, data.identity[hold_out(data)])
    held_people, trained = people[kept], people[~kept]
    if len(trained) < 2 or len(held_people) < 2:
        raise DataError(f"{len(people)} people with {least} pictures or more; 4 are the least")
    number = np.full(int(data.identity.max()) + 1, -1)
    number[trained] = np.arange(len(trained))
    label = np.full(len(data.identity), -1)
    label[rows] = number[data.identity[rows]]
    held = rows[np.isin(data.identity[rows], held_people)]
    return Split(np.flatnonzero(label >= 0), held, label, len(trained))


class PeopleBatches:
    """P people with K pictures each, a function of (seed, step)."""

    def __init__(self, split: Split, *, people: int, pictures: int, seed: int) -> None:
        order = np.argsort(split.label[split.train], kind="stable")
        rows = split.train[order]
        self._of = np.split(rows, np.cumsum(np.bincount(split.label[split.train]))[:-1])
        self._people, self._pictures, self._seed = min(people, len(self._of)), pictures, seed

    def at(self, step: int) -> tuple[Ints, Ints]:
        """(rows, labels), each (P·K,); a person with fewer than K pictures repeats some."""
        rng = np.random.default_rng([self._seed, step])
        who = rng.choice(len(self._of), self._people, replace=False)
        k = self._pictures
        rows = [rng.choice(self._of[p], k, replace=len(self._of[p]) < k) for p in who]
        return np.concatenate(rows), np.repeat(who, k)


def verification(embeddings: Floats, person: Ints) -> tuple[float, float]:
    """(equal error rate, TAR at FAR 1e-3) over all pairs of unit rows."""
    upper = np.triu_indices(len(embeddings), 1)
    same = person[upper[0]] == person[upper[1]]
    similarity = (embeddings @ embeddings.T)[upper]
    return equal_error_rate(similarity, same), tar_at_far(similarity, same, 1e-3)


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 products on a CUDA device that has them; everything float32 elsewhere."""
    able = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=able)


@dataclass(slots=True, eq=False)
class Bar:
    """A progress bar on stderr, redrawn at most five times a second."""

    name: str
    steps: int
    began: float = field(default_factory=time.monotonic)
    first: int = 0
    drawn: float = 0.0

    def show(self, step: int, note: str) -> None:
        now = time.monotonic()
        if now - self.drawn < 0.2 and step < self.steps:
            return
        self.drawn = now
        self.first = self.first or step - 1
        left = (now - self.began) / max(1, step - self.first) * (self.steps - step)
        full = 30 * step // self.steps
        bar = "█" * full + "·" * (30 - full)
        end = "\n" if step >= self.steps else ""
        print(
            f"\r{self.name} {bar} {step}/{self.steps} {note} {left:4.0f} s ",
            end=end,
            file=sys.stderr,
            flush=True,
        )


def draw_curves(history: list[dict[str, float]], target: Path) -> None:
    """The loss of every step and the validation figure over it, as a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, left = plt.subplots(figsize=(7, 4))
    losses = [(h["step"], h["loss"]) for h in history if "loss" in h]
    left.plot(*zip(*losses, strict=True), color="tab:blue", linewidth=1)
    left.set_xlabel("step")
    left.set_ylabel("training loss", color="tab:blue")
    held = [(h["step"], 100 * h["eer"]) for h in history if "eer" in h]
    right = left.twinx()
    right.plot(*zip(*held, strict=True), color="tab:orange", marker=".")
    right.set_ylabel("equal error rate, people held out, %", color="tab:orange")
    figure.tight_layout()
    figure.savefig(target, dpi=120)
    plt.close(figure)
