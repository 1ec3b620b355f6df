"""What every training of an embedder needs: batches as a function of (seed, step), a held-out part,
the rate schedule, the optimiser, checkpoints that survive an interruption, a journal."""

from __future__ import annotations

import json
import math
import queue
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface.errors import EdgefaceError
from export.augment import Strength, augment
from export.data import hold_out, open_pack
from export.teachers import open_teacher, run_teacher, to_input


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """`rows` (n,) of the pack and their degraded pictures `images` (n, 112, 112, 3) uint8 BGR."""

    rows: NDArray[np.int64]
    images: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """Which rows of a pack are trained on, in which batches and how degraded."""

    pack: Path
    rows: NDArray[np.int64]
    batch: int
    seed: int
    strength: Strength
    chance: NDArray[np.float32] | None = None

    def at(self, step: int, images: NDArray[np.uint8]) -> Batch:
        """The batch of one step; by `chance` of each row where that is given."""
        rng = np.random.default_rng([self.seed, step])
        if self.chance is None:
            chosen = rng.choice(self.rows, self.batch, replace=len(self.rows) < self.batch)
        else:
            drawn = np.searchsorted(np.cumsum(self.chance), rng.random(self.batch))
            chosen = self.rows[np.minimum(drawn, len(self.rows) - 1)]
        return Batch(chosen, np.stack([augment(images[i], rng, self.strength) for i in chosen]))


class Steps(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    """The batches of a course from one step to another: a resumed run sees what an uninterrupted
    one would."""

    def __init__(self, course: Course, start: int, stop: int) -> None:
        super().__init__()
        self.course, self.start, self.stop = course, start, stop

    def __iter__(self) -> Iterator[Batch]:
        cv2.setNumThreads(0)
        images = open_pack(self.course.pack).images
        for step in range(self.start, self.stop):
            yield self.course.at(step, images)


def identity(batch: Batch) -> Batch:
    """A collate function that leaves the batch alone."""
    return batch


def batches(course: Course, start: int, stop: int) -> Iterator[Batch]:
    """Augmented in one worker process, a few batches ahead."""
    return iter(
        torch.utils.data.DataLoader(
            Steps(course, start, stop),
            batch_size=None,
            num_workers=1,
            prefetch_factor=4,
            collate_fn=identity,
        )
    )


def prefetch(source: Iterator[Any], depth: int = 3) -> Iterator[Any]:
    """Run `source` in a thread, `depth` items ahead; its exception is raised here."""
    line: queue.Queue[Any] = queue.Queue(depth)
    end = object()

    def work() -> None:
        try:
            for item in source:
                line.put(item)
            line.put(end)
        except BaseException as error:
            line.put(error)

    threading.Thread(target=work, daemon=True).start()
    while (item := line.get()) is not end:
        if isinstance(item, BaseException):
            raise item
        yield item


def as_tensor(array: NDArray[np.float32]) -> Tensor:
    """A tensor of `array`, maps in channels-last order."""
    tensor = torch.from_numpy(array)
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def cosine_rate(step: int, steps: int, peak: float, warm: int = 100) -> float:
    """Linear warm-up, then half a cosine down to a hundredth of `peak`."""
    if step < warm:
        return peak * (step + 1) / warm
    t = (step - warm) / max(1, steps - warm)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, t))))


def optimiser(module: nn.Module, decay: float) -> torch.optim.AdamW:
    """AdamW; vectors (normalisation, slopes) at three times the rate and without decay."""
    wide = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
    thin = [p for p in module.parameters() if p.requires_grad and p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": wide, "weight_decay": decay, "times": 1.0},
        {"params": thin, "weight_decay": 0.0, "times": 3.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), fused=True)


def set_rate(optimizer: torch.optim.AdamW, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["times"]


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """Held-out clean pictures and the teacher's embeddings of them."""

    images: NDArray[np.uint8]
    target: NDArray[np.float32]

    def cosine(self, student: nn.Module) -> tuple[float, float]:
        """Mean and 5th percentile of the cosine of student and teacher, evaluation mode."""
        student.eval()
        rows = []
        with torch.no_grad():
            for i in range(0, len(self.images), 32):
                rows.append(student(as_tensor(to_input(self.images[i : i + 32]))).numpy())
        student.train()
        a, b = np.concatenate(rows), self.target
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        return float(cosine.mean()), float(np.percentile(cosine, 5))


def prepare(
    pack: Path, teacher: Path, *, threads: int, count: int = 500
) -> tuple[NDArray[np.int64], Watch]:
    """The training rows of a pack and a watch over at most `count` held-out pictures."""
    data = open_pack(pack)
    held = hold_out(data)
    left = np.flatnonzero(held & data.keep)
    chosen = left[:: max(1, len(left) // count)][:count]
    images = np.asarray(data.images[chosen])
    target = run_teacher(open_teacher(teacher, 20, threads=threads), images)
    return np.flatnonzero(~held & data.keep), Watch(images, target)


def save(path: Path, **state: object) -> None:
    """Write a checkpoint so that an interruption leaves the old or the new one."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def finite(loss: float, step: int | None = None) -> None:
    """EdgefaceError where training has diverged: what comes after would be made of NaN."""
    if not math.isfinite(loss):
        at = "" if step is None else f" after step {step}"
        raise EdgefaceError(
            f"the loss is {loss}{at}: training has diverged and ends, what was saved before is "
            "kept; train with a smaller --rate, or from the weights of an earlier run"
        )


@dataclass(slots=True, eq=False)
class Journal:
    """Smoothed figures as JSON lines, to a file and to stderr."""

    path: Path
    every: int
    smooth: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    file: TextIO | None = None

    def __enter__(self) -> Journal:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.path.open("a")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.file is not None:
            self.file.close()

    def add(self, values: dict[str, float]) -> None:
        """Take the figures of one step; EdgefaceError when one of them is no number any more."""
        for value in values.values():
            finite(value)
        for name, value in values.items():
            self.smooth[name] = 0.97 * self.smooth.get(name, value) + 0.03 * value

    def now(self) -> dict[str, float]:
        """Seconds since the start and the smoothed figures."""
        line = {"s": round(time.monotonic() - self.began, 1)}
        return line | {name: round(value, 5) for name, value in self.smooth.items()}

    def line(self, figures: dict[str, float]) -> None:
        """Write one line."""
        text = json.dumps(figures)
        print(text, file=self.file, flush=True)
        print(text, file=sys.stderr, flush=True)

    def report(self, step: int, last: int, student: nn.Module, watch: Watch) -> None:
        """A line every `every` steps and at the last; with the held-out cosine on every tenth."""
        if step % self.every and step != last:
            return
        line: dict[str, float] = {"step": step} | self.now()
        if step % (self.every * 10) == 0 or step == last:
            line["held"], line["held_p5"] = (round(v, 5) for v in watch.cosine(student))
        self.line(line)
