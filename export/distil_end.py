"""Phase two of distillation: the whole student on the teachers' embeddings, with the first
teacher's maps at the stage ends as guidance and an average of the weights as the result."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from export.augment import STRENGTHS
from export.losses import embedding_distillation, relational_distillation
from export.networks.mobilefacenet import MobileFaceNet, build
from export.teachers import boundaries, open_teacher, target_file, to_input
from export.training import (
    Batch,
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


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What a batch should give: `maps` of the first teacher at the guided blocks, `embeddings` the
    teachers' of the degraded pictures (the first teacher's first), `clean` the first teacher's of
    the undegraded pictures where it is cached, `clean_more` other teachers' of the same."""

    maps: Maps
    embeddings: list[Tensor]
    clean: Tensor | None
    clean_more: list[Tensor]


class EndFeed:
    """Augmented pictures and their targets."""

    def __init__(self, args: argparse.Namespace, guides: dict[str, str]) -> None:
        threads = args.teacher_threads
        self.first = open_teacher(args.teacher, args.batch, tensors=guides, threads=threads)
        self.more = [open_teacher(path, args.batch, threads=threads) for path in args.also]

        cached = {path.stem: np.load(target_file(args.pack, path)) for path in args.clean}
        self.clean = cached.pop(args.teacher.stem, None)
        self.clean_more = list(cached.values())

    def __call__(self, batch: Batch) -> tuple[Tensor, Targets]:
        x = to_input(batch.images)
        maps = {name: as_tensor(v) for name, v in self.first(x).items()}
        embedding = maps.pop("head") if "head" in maps else maps.pop("embedding")
        others = [torch.from_numpy(teacher(x)["embedding"]) for teacher in self.more]
        clean, *more = (
            None if c is None else torch.from_numpy(c[batch.rows].astype(np.float32))
            for c in (self.clean, *self.clean_more)
        )
        return as_tensor(x), Targets(maps, [embedding, *others], clean, more)


class Student(nn.Module):
    """The network and a linear projection to every further teacher's space; the first `frozen`
    blocks stay as they are."""

    def __init__(self, network: MobileFaceNet, widths: list[int], frozen: int) -> None:
        super().__init__()
        self.network = network
        self.frozen = frozen
        self.projections = nn.ModuleList(
            nn.Linear(network.spec.embedding, width, bias=False) for width in widths
        )
        for block in list(network.blocks.values())[:frozen]:
            block.requires_grad_(False)

    def forward(self, image: Tensor, guides: tuple[str, ...]) -> tuple[Tensor, Maps]:
        x, maps = (image - 127.5) / 127.5, {}
        for i, (name, block) in enumerate(self.network.blocks.items()):
            with torch.set_grad_enabled(i >= self.frozen):
                x = block(x)
            if name in guides and i >= self.frozen:
                maps[name] = x
        return x, maps

    def train(self, mode: bool = True) -> Student:
        """Training mode but for the head's per-picture statistics: one sample a picture is too few
        for batch statistics, so the running ones stay as the block phase left them."""
        super().train(mode)
        head = self.network.blocks["head"]
        head.norm.eval()
        head.pool.eval()
        return self


def end_loss(
    student: Student, out: tuple[Tensor, Maps], target: Targets, guide_weight: float
) -> dict[str, Tensor]:
    """Parts of the loss: cosine and structure per teacher, relative error per guided map, and the
    length of the embedding against the first teacher's of the same degraded picture, so that it
    stays a sign of how much could be recognised."""
    embedding, maps = out
    first = target.embeddings[0]
    own = functional.normalize(embedding, dim=1)
    aim = first if target.clean is None else target.clean
    parts = {
        "cosine": 2 * embedding_distillation(embedding, aim),
        "structure": 4 * relational_distillation(embedding, aim),
        "length": 0.05 * (embedding.norm(dim=1) / first.norm(dim=1) - 1).square().mean(),
    }
    if target.clean is not None:
        parts["live"] = embedding_distillation(embedding, first)
    more = [*target.embeddings[1:], *target.clean_more]
    for i, (projection, other) in enumerate(zip(student.projections, more, strict=True), start=1):
        parts[f"cosine{i}"] = embedding_distillation(projection(own), other)
        parts[f"structure{i}"] = 2 * relational_distillation(own, other)
    for name, map_ in maps.items():
        error = (map_ - target.maps[name]).square().mean((0, 2, 3))
        scale = target.maps[name].var((0, 2, 3)).clamp(min=1e-3)
        parts[name] = guide_weight * (error / scale).mean()
    return parts


def start_state(
    args: argparse.Namespace,
    student: Student,
    average: AveragedModel,
    optimizer: torch.optim.AdamW,
) -> int:
    """Load the run's own checkpoint with `--resume`, otherwise `--init`; returns the step."""
    checkpoint = args.out / "end.pt"
    if args.resume and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        student.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])
    if args.init:
        student.network.load_state_dict(torch.load(args.init, weights_only=True)["student"])
        average.module.load_state_dict(student.network.state_dict())
    return 0


def train_end(args: argparse.Namespace) -> int:
    """Train `args.out`/end.pt; 2 when a map to guide by is not known."""
    torch.manual_seed(args.seed)
    network = build(args.network).to(memory_format=torch.channels_last)
    guides = tuple(g for g in args.guides.split(",") if g)
    known = boundaries(args.teacher.stem, args.network, [*guides, "head"] if guides else [])
    if missing := [g for g in guides if g not in known or g not in network.blocks]:
        print(f"distil: no maps to guide {', '.join(missing)} by", file=sys.stderr)
        return 2
    more = [*args.also, *(p for p in args.clean if p.stem != args.teacher.stem)]
    widths = [open_teacher(p, 1).compiled.output(0).shape[1] for p in more]
    student = Student(network, widths, args.freeze)
    average = AveragedModel(
        network, multi_avg_fn=get_ema_multi_avg_fn(args.average), use_buffers=True
    )
    optimizer = optimiser(student, args.decay)
    start = start_state(args, student, average, optimizer)
    rows, watch = prepare(args.pack, args.teacher, threads=args.threads)
    course = Course(args.pack, rows, args.batch, args.seed + 7, STRENGTHS[args.strength])
    loader = batches(course, start, args.steps)
    feed = EndFeed(args, known)
    torch.set_num_threads(args.threads)
    student.train()
    saved = time.monotonic()
    with Journal(args.out / "end.jsonl", args.report) as journal:
        for done, (x, targets) in enumerate(prefetch(feed(b) for b in loader), start=start + 1):
            set_rate(optimizer, cosine_rate(done - 1, args.steps, args.rate, args.warm))
            parts = end_loss(student, student(x, guides), targets, args.guide_weight)
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(parts.values())).sum().backward()
            nn.utils.clip_grad_norm_(student.parameters(), 5.0)
            optimizer.step()
            average.update_parameters(network)
            journal.add({name: value.item() for name, value in parts.items()})
            journal.report(done, args.steps, average.module, watch)
            if time.monotonic() - saved > args.save_every or done == args.steps:
                save(
                    args.out / "end.pt",
                    network=args.network,
                    phase="end",
                    step=done,
                    student=average.module.state_dict(),
                    model=student.state_dict(),
                    average=average.state_dict(),
                    optimizer=optimizer.state_dict(),
                )
                saved = time.monotonic()
    return 0
