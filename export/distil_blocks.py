"""Phase one of distillation: every block on its own, on the teacher's maps.

A block learns by gradient descent from random initialisation to map the teacher's input of that
block to the teacher's output of it. All blocks train in parallel, each on as many pictures as its
resolution needs: a 56×56 map holds 64 times the samples of a 7×7 one.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from export.augment import STRENGTHS
from export.data import open_pack
from export.networks.mobilefacenet import MobileFaceNet, build
from export.teachers import boundaries, open_teacher, to_input
from export.training import (
    Course,
    Journal,
    as_tensor,
    batches,
    cosine_rate,
    optimiser,
    prefetch,
    prepare,
    save,
    set_rate,
)

Maps = dict[str, Tensor]

# Steps no run reaches: batches to measure the maps on before the first step.
PROBE = 2**40
# The part of a batch a block is trained on, by the stage it belongs to.
SHARE = {"stem": 1 / 8, "1": 1 / 8, "2": 1 / 4, "3": 1.0, "head": 1.0}


def share(name: str, batch: int) -> int:
    """How many pictures of a batch block `name`'s output is needed for."""
    key = name if name in SHARE else name[-3] if "_" in name else name[-1]
    return min(batch, max(4, round(batch * SHARE[key])))


def input_share(name: str, batch: int) -> int:
    """How many pictures block `name` is trained on: a down block reads maps of the stage before."""
    if name.startswith("down"):
        number = int(name[4:])
        return share("stem" if number == 1 else f"res{number - 1}_0", batch)
    return share(name, batch)


class BlockErrors(nn.Module):
    """Per-block normalised squared error of a student on a teacher's inputs and outputs."""

    def __init__(self, student: MobileFaceNet) -> None:
        super().__init__()
        self.student = student

    def forward(self, inputs: Maps, targets: Maps, weights: Maps) -> Tensor:
        errors = []
        for name, block in self.student.blocks.items():
            difference = block(inputs[name]) - targets[name]
            dims = [d for d in range(difference.ndim) if d != 1]
            error = (difference.square().mean(dims) * weights[name]).mean()
            if name == "head":
                out = difference + targets[name]
                error = error + 2 * (1 - functional.cosine_similarity(out, targets[name])).mean()
            errors.append(error)
        return torch.stack(errors)


class BlockFeed:
    """Teacher maps: the first pictures of a batch with every boundary, the rest only with the
    low-resolution ones."""

    def __init__(self, path: Path, tensors: dict[str, str], batch: int, threads: int) -> None:
        self.need = {name: input_share(name, batch) for name in tensors}
        self.cut = share("res2_0", batch)
        late = {n: t for n, t in tensors.items() if share(n, batch) == batch}
        self.first = open_teacher(path, self.cut, tensors=tensors, threads=threads)
        self.rest = None
        if batch > self.cut:
            self.rest = open_teacher(path, batch - self.cut, tensors=late, threads=threads)

    def __call__(self, images: NDArray[np.uint8]) -> tuple[Maps, Maps]:
        x = to_input(images)
        maps = self.first(x[: self.cut])
        if self.rest is not None:
            for name, rest in self.rest(x[self.cut :]).items():
                maps[name] = np.concatenate([maps[name], rest])
        inputs, targets, before = {}, {}, (x - 127.5) / 127.5
        for name, need in self.need.items():
            n = min(need, len(before))
            inputs[name], targets[name] = as_tensor(before[:n]), as_tensor(maps[name][:n])
            before = maps[name]
        return inputs, targets


def branch_weights(student: MobileFaceNet, samples: list[tuple[Maps, Maps]]) -> Maps:
    """1 / variance per channel of what each block has to add to its input, floored at a twentieth
    of the mean."""
    weights = {}
    for name, block in student.blocks.items():
        rows = []
        for inputs, targets in samples:
            t = targets[name] - inputs[name] if getattr(block, "residual", False) else targets[name]
            rows.append(t.transpose(0, 1).flatten(1))
        variance = torch.cat(rows, 1).var(1)
        weights[name] = 1.0 / variance.clamp(min=0.05 * float(variance.mean()))
    return weights


def train_blocks(args: argparse.Namespace) -> int:
    """Train `args.out`/blocks.pt; 2 when the teacher's blocks are not known."""
    torch.manual_seed(args.seed)
    student = build(args.network).to(memory_format=torch.channels_last)
    names = list(student.blocks)
    tensors = boundaries(args.teacher.stem, args.network, names)
    if missing := [n for n in names if n not in tensors]:
        text = f"distil: no tensors of {args.teacher.stem} known for {', '.join(missing)}"
        print(text, file=sys.stderr)
        return 2
    rows, watch = prepare(args.pack, args.teacher, threads=args.threads)
    course = Course(args.pack, rows, args.batch, args.seed, STRENGTHS[args.strength])
    optimizer = optimiser(student, args.decay)
    checkpoint, start, weights = args.out / "blocks.pt", 0, None
    if args.resume and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        student.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        start, weights = state["step"], state["weights"]
    loader = batches(course, start, args.steps)
    feed = BlockFeed(args.teacher, tensors, args.batch, args.teacher_threads)
    torch.set_num_threads(args.threads)
    if weights is None:
        images = open_pack(args.pack).images
        probes = [feed(course.at(PROBE + i, images).images) for i in range(4)]
        weights = branch_weights(student, probes)
    errors = BlockErrors(student).train()
    saved = time.monotonic()
    with Journal(args.out / "blocks.jsonl", args.report) as journal:
        fed = prefetch(feed(batch.images) for batch in loader)
        for done, (inputs, targets) in enumerate(fed, start + 1):
            set_rate(optimizer, cosine_rate(done - 1, args.steps, args.rate, args.warm))
            each = errors(inputs, targets, weights)
            optimizer.zero_grad(set_to_none=True)
            each.sum().backward()
            optimizer.step()
            journal.add(dict(zip(names, each.tolist(), strict=True)) | {"mean": each.mean().item()})
            journal.report(done, args.steps, student, watch)
            if time.monotonic() - saved > args.save_every or done == args.steps:
                save(
                    checkpoint,
                    network=args.network,
                    phase="blocks",
                    step=done,
                    weights=weights,
                    student=student.state_dict(),
                    optimizer=optimizer.state_dict(),
                )
                saved = time.monotonic()
    return 0
