"""`python -m export distil`: train an embedder from a teacher's outputs, without labels.

Two phases, each resumable to the bit. `blocks`: every block of the student learns, from random
initialisation and by gradient descent, to map the teacher's input of that block to the teacher's
output of it (per-channel normalised squared error), all blocks in parallel and each on as many
pictures as its resolution needs. `end`: the whole student learns the teachers' embeddings (cosine
and similarity structure), with errors at the stage ends as guidance.
"""

from __future__ import annotations

import argparse
import json
import math
import queue
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from export.augment import MODERATE, STRENGTHS, Strength, augment
from export.data import Pack, open_pack
from export.losses import embedding_distillation, relational_distillation
from export.networks.mobilefacenet import MobileFaceNet, build
from export.teachers import boundaries, open_teacher, run_teacher, to_input

# Pictures per step at each resolution: a 56×56 map holds 64 times the samples of a 7×7 map, so a
# block sees about as many samples everywhere and the step costs a quarter of a full one.
SHARE = {"stem": 1 / 8, "1": 1 / 8, "2": 1 / 4, "3": 1.0, "head": 1.0}


def hold_out(data: Pack, fraction: float = 0.04) -> NDArray[np.bool_]:
    """Rows kept from training: every `1/fraction`-th identity whole, and as many of the pictures
    without identity."""
    every = round(1 / fraction)
    unknown = data.identity < 0
    return np.where(unknown, np.arange(len(data.identity)) % every == 0, data.identity % every == 0)


class Batches(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    """Augmented uint8 batches, a pure function of (seed, step), so that a resumed run sees what an
    uninterrupted one would."""

    def __init__(
        self,
        pack: Path,
        rows: NDArray[np.int64],
        batch: int,
        seed: int,
        start: int,
        stop: int,
        strength: Strength,
    ) -> None:
        super().__init__()
        self.pack, self.rows, self.batch, self.seed = pack, rows, batch, seed
        self.start, self.stop, self.strength = start, stop, strength

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        cv2.setNumThreads(0)
        images = open_pack(self.pack).images
        for step in range(self.start, self.stop):
            rng = np.random.default_rng([self.seed, step])
            chosen = rng.choice(self.rows, self.batch, replace=False)
            yield np.stack([augment(images[i], rng, self.strength) for i in chosen])


def as_tensor(array: NDArray[np.float32]) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def share(name: str, batch: int) -> int:
    """How many pictures of a batch of `batch` block `name` is trained on."""
    key = name if name in SHARE else name[-3] if "_" in name else name[-1]
    return max(4, round(batch * SHARE[key]))


def resolution_share(name: str, batch: int) -> int:
    """Pictures for which the *input* of `name` is needed: a down block works at the resolution
    of the stage before it."""
    if name.startswith("down"):
        number = int(name[4:])
        return share("stem" if number == 1 else f"res{number - 1}_0", batch)
    return share(name, batch)


class BlockErrors(nn.Module):
    """Per-block normalised squared error of a student on a teacher's inputs and outputs."""

    def __init__(self, student: MobileFaceNet) -> None:
        super().__init__()
        self.student = student

    def forward(
        self, inputs: dict[str, Tensor], targets: dict[str, Tensor], weights: dict[str, Tensor]
    ) -> Tensor:
        errors = []
        for name, block in self.student.blocks.items():
            difference = block(inputs[name]) - targets[name]
            dims = [d for d in range(difference.ndim) if d != 1]
            errors.append((difference.square().mean(dims) * weights[name]).mean())
            if name == "head":
                cosine = F.cosine_similarity(difference + targets[name], targets[name], dim=1)
                errors[-1] = errors[-1] + 2 * (1 - cosine).mean()
        return torch.stack(errors)


class BlockFeed:
    """Teacher maps for the block phase: the first pictures of a batch with every boundary, the rest
    only with the low-resolution ones."""

    def __init__(self, path: Path, tensors: dict[str, str], batch: int, threads: int) -> None:
        names = list(tensors)
        self.names, self.batch = names, batch
        self.need = {n: resolution_share(n, batch) for n in names}
        self.cut = share("res2_0", batch)
        late = {n: t for n, t in tensors.items() if share(n, batch) == batch}
        self.first = open_teacher(path, self.cut, tensors=tensors, threads=threads)
        self.rest = open_teacher(path, batch - self.cut, tensors=late, threads=threads)

    def __call__(self, images: NDArray[np.uint8]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        x = to_input(images)
        maps = self.first(x[: self.cut])
        for name, rest in self.rest(x[self.cut :]).items():
            maps[name] = np.concatenate([maps[name], rest])
        inputs, targets, before = {}, {}, (x - 127.5) / 127.5
        for name in self.names:
            n = min(self.need[name], len(before))
            inputs[name], targets[name] = as_tensor(before[:n]), as_tensor(maps[name][:n])
            before = maps[name]
        return inputs, targets


def branch_weights(
    student: MobileFaceNet, samples: list[tuple[dict[str, Tensor], dict[str, Tensor]]]
) -> dict[str, Tensor]:
    """1 / variance per channel of what each block has to add, floored at a twentieth of the mean."""
    weights = {}
    for name, block in student.blocks.items():
        rows = []
        for inputs, targets in samples:
            t = targets[name] - inputs[name] if getattr(block, "residual", False) else targets[name]
            rows.append(t.transpose(0, 1).flatten(1))
        variance = torch.cat(rows, 1).var(1)
        weights[name] = 1.0 / variance.clamp(min=0.05 * float(variance.mean()))
    return weights


def cosine_rate(step: int, steps: int, peak: float, warm: int = 100) -> float:
    """Linear warm-up, then half a cosine down to a hundredth of `peak`."""
    if step < warm:
        return peak * (step + 1) / warm
    t = (step - warm) / max(1, steps - warm)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, t))))


def optimiser(modules: nn.Module, decay: float) -> torch.optim.AdamW:
    """AdamW; vectors (normalisation, slopes) at three times the rate and without decay."""
    wide = [p for p in modules.parameters() if p.requires_grad and p.ndim > 1]
    thin = [p for p in modules.parameters() if p.requires_grad and p.ndim <= 1]
    return torch.optim.AdamW(
        [
            {"params": wide, "weight_decay": decay, "times": 1.0},
            {"params": thin, "weight_decay": 0.0, "times": 3.0},
        ],
        lr=1e-3,
        betas=(0.9, 0.98),
        fused=True,
    )


def set_rate(optimizer: torch.optim.AdamW, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["times"]


def held_out_cosine(
    student: MobileFaceNet, images: NDArray[np.uint8], target: NDArray[np.float32]
) -> tuple[float, float]:
    """Mean and 5th percentile of the cosine between student and teacher, evaluation mode."""
    student.eval()
    rows = []
    with torch.no_grad():
        for i in range(0, len(images), 32):
            rows.append(student(as_tensor(to_input(images[i : i + 32]))).numpy())
    student.train()
    a = np.concatenate(rows)
    cosine = (a * target).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(target, axis=1)
    return float(cosine.mean()), float(np.percentile(cosine, 5))


def prefetch(source: Iterator, depth: int = 3) -> Iterator:  # type: ignore[type-arg]
    """Run `source` in a thread, `depth` items ahead; its exception is raised here."""
    line: queue.Queue = queue.Queue(depth)  # type: ignore[type-arg]
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


def save(path: Path, **state: object) -> None:
    """Write a checkpoint so that an interruption leaves the old or the new one."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def train_blocks(args: argparse.Namespace) -> int:
    torch.manual_seed(args.seed)
    data = open_pack(args.pack)
    held = hold_out(data)
    rows = np.flatnonzero(~held & data.keep)
    student = build(args.network).to(memory_format=torch.channels_last)
    names = list(student.blocks)
    tensors = boundaries(args.teacher.stem, args.network, names)
    if missing := [n for n in names if n not in tensors]:
        text = f"distil: no tensors of {args.teacher.stem} known for {', '.join(missing)}"
        print(text, file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "blocks.pt"
    optimizer = optimiser(student, args.decay)
    start, weights = 0, None
    if args.resume and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        student.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        start, weights = state["step"], state["weights"]
    batches = Batches(args.pack, rows, args.batch, args.seed, start, args.steps, MODERATE)
    loader = iter(
        torch.utils.data.DataLoader(
            batches, batch_size=None, num_workers=1, prefetch_factor=4, collate_fn=lambda x: x
        )
    )
    watch = np.flatnonzero(held & data.keep)
    watch = watch[:: max(1, len(watch) // 500)][:500]
    images = np.asarray(data.images[watch])
    target = run_teacher(open_teacher(args.teacher, 20, threads=args.threads), images)
    feed = BlockFeed(args.teacher, tensors, args.batch, args.teacher_threads)
    torch.set_num_threads(args.threads)
    maps = prefetch(feed(b) for b in loader)
    if weights is None:
        probe = Batches(args.pack, rows, args.batch, args.seed + 1, 0, 4, MODERATE)
        weights = branch_weights(student, [feed(b) for b in probe])
    errors = BlockErrors(student).train()
    log = (args.out / "blocks.jsonl").open("a")
    smooth, began, last_save = None, time.time(), time.time()
    for step, (inputs, targets) in enumerate(maps, start=start):
        set_rate(optimizer, cosine_rate(step, args.steps, args.rate))
        each = errors(inputs, targets, weights)
        optimizer.zero_grad(set_to_none=True)
        each.sum().backward()
        optimizer.step()
        now = each.detach()
        smooth = now if smooth is None else smooth + 0.05 * (now - smooth)
        done = step + 1
        if done % args.report == 0 or done == args.steps:
            line = {"step": done, "s": round(time.time() - began, 1), "mean": float(smooth.mean())}
            line |= {n: round(float(v), 4) for n, v in zip(names, smooth, strict=True)}
            if done % (args.report * 10) == 0 or done == args.steps:
                line["cosine"], line["cosine_p5"] = held_out_cosine(student, images, target)
            print(json.dumps(line), file=log, flush=True)
            print(json.dumps(line), file=sys.stderr, flush=True)
        if time.time() - last_save > args.save_every or done == args.steps:
            save(
                checkpoint,
                network=args.network,
                phase="blocks",
                step=done,
                weights=weights,
                student=student.state_dict(),
                optimizer=optimizer.state_dict(),
            )
            last_save = time.time()
    return 0


class EndFeed:
    """Augmented pictures, the teachers' unit embeddings and the first teacher's stage-end maps."""

    def __init__(self, args: argparse.Namespace, guides: dict[str, str]) -> None:
        self.first = open_teacher(
            args.teacher, args.batch, tensors=guides, threads=args.teacher_threads
        )
        self.more = [
            open_teacher(path, args.batch, threads=args.teacher_threads) for path in args.also
        ]

    def __call__(self, images: NDArray[np.uint8]) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
        x = to_input(images)
        maps = {name: as_tensor(v) for name, v in self.first(x).items()}
        embedding = maps.pop("head") if "head" in maps else maps.pop("embedding")
        others = [torch.from_numpy(t(x)["embedding"]) for t in self.more]
        return as_tensor(x), maps, [embedding, *(F.normalize(o, dim=1) for o in others)]


class Student(nn.Module):
    """The network and a linear projection to every further teacher's space."""

    def __init__(self, network: MobileFaceNet, widths: list[int], frozen: int) -> None:
        super().__init__()
        self.network = network
        self.frozen = frozen
        self.projections = nn.ModuleList(
            nn.Linear(network.spec.embedding, width, bias=False) for width in widths
        )
        for block in list(network.blocks.values())[:frozen]:
            block.requires_grad_(False)

    def forward(self, image: Tensor, guides: tuple[str, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        x, maps = (image - 127.5) / 127.5, {}
        for i, (name, block) in enumerate(self.network.blocks.items()):
            if i < self.frozen:
                with torch.no_grad():
                    x = block(x)
            else:
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
    student: Student,
    out: Tensor,
    maps: dict[str, Tensor],
    targets: dict[str, Tensor],
    embeddings: list[Tensor],
    guide_weight: float,
) -> dict[str, Tensor]:
    """Parts of the loss: cosine and structure per teacher, relative error per guided map, and the
    length of the embedding against the first teacher's."""
    own = F.normalize(out, dim=1)
    first = F.normalize(embeddings[0], dim=1)
    parts = {
        "cosine": 2 * embedding_distillation(own, first),
        "structure": 4 * relational_distillation(own, first),
        "length": 0.05 * (out.norm(dim=1) / embeddings[0].norm(dim=1) - 1).square().mean(),
    }
    for i, (projection, target) in enumerate(
        zip(student.projections, embeddings[1:], strict=True), start=1
    ):
        projected = projection(own)
        parts[f"cosine{i}"] = embedding_distillation(projected, target)
        parts[f"structure{i}"] = 2 * relational_distillation(own, target)
    for name, map_ in maps.items():
        target = targets[name]
        error = (map_ - target).square().mean((0, 2, 3))
        parts[name] = guide_weight * (error / target.var((0, 2, 3)).clamp(min=1e-3)).mean()
    return parts


def train_end(args: argparse.Namespace) -> int:
    torch.manual_seed(args.seed)
    data = open_pack(args.pack)
    held = hold_out(data)
    rows = np.flatnonzero(~held & data.keep)
    network = build(args.network).to(memory_format=torch.channels_last)
    guides = tuple(g for g in args.guides.split(",") if g)
    known = boundaries(args.teacher.stem, args.network, [*guides, "head"] if guides else [])
    if missing := [g for g in guides if g not in known or g not in network.blocks]:
        print(f"distil: no maps to guide {', '.join(missing)} by", file=sys.stderr)
        return 2
    widths = [open_teacher(p, 1).compiled.output(0).shape[1] for p in args.also]
    student = Student(network, widths, args.freeze)
    average = torch.optim.swa_utils.AveragedModel(
        network,
        multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(args.average),
        use_buffers=True,
    )
    optimizer = optimiser(student, args.decay)
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint, start = args.out / "end.pt", 0
    if args.resume and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        student.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    elif args.init:
        network.load_state_dict(torch.load(args.init, weights_only=True)["student"])
        average.module.load_state_dict(network.state_dict())
    batches = Batches(
        args.pack, rows, args.batch, args.seed + 7, start, args.steps, STRENGTHS[args.strength]
    )
    loader = iter(
        torch.utils.data.DataLoader(
            batches, batch_size=None, num_workers=1, prefetch_factor=4, collate_fn=lambda x: x
        )
    )
    watch = np.flatnonzero(held & data.keep)
    watch = watch[:: max(1, len(watch) // 500)][:500]
    images = np.asarray(data.images[watch])
    target = run_teacher(open_teacher(args.teacher, 20, threads=args.threads), images)
    torch.set_num_threads(args.threads)
    feed = EndFeed(args, known)
    items = prefetch(feed(b) for b in loader)
    student.train()
    log = (args.out / "end.jsonl").open("a")
    smooth: dict[str, float] = {}
    began, last_save = time.time(), time.time()
    for step, (x, maps, embeddings) in enumerate(items, start=start):
        set_rate(optimizer, cosine_rate(step, args.steps, args.rate, warm=args.warm))
        out, own = student(x, guides)
        parts = end_loss(student, out, own, maps, embeddings, args.guide_weight)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(parts.values())).sum().backward()
        nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
        average.update_parameters(network)
        for name, value in parts.items():
            smooth[name] = smooth.get(name, value.item()) * 0.97 + 0.03 * value.item()
        done = step + 1
        if done % args.report == 0 or done == args.steps:
            line: dict[str, float] = {"step": done, "s": round(time.time() - began, 1)}
            line |= {n: round(v, 5) for n, v in smooth.items()}
            if done % (args.report * 10) == 0 or done == args.steps:
                line["held"], line["held_p5"] = held_out_cosine(average.module, images, target)
            print(json.dumps(line), file=log, flush=True)
            print(json.dumps(line), file=sys.stderr, flush=True)
        if time.time() - last_save > args.save_every or done == args.steps:
            save(
                checkpoint,
                network=args.network,
                phase="end",
                step=done,
                student=average.module.state_dict(),
                model=student.state_dict(),
                average=average.state_dict(),
                optimizer=optimizer.state_dict(),
            )
            last_save = time.time()
    return 0


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export distil", description=__doc__)
    parser.add_argument("phase", choices=["blocks", "end"])
    parser.add_argument("--pack", type=Path, required=True, help="pack made by `export pack`")
    parser.add_argument("--teacher", type=Path, required=True, help="teacher ONNX")
    parser.add_argument("--network", default="mobilefacenet")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and log")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--teacher-threads", type=int, default=1)
    parser.add_argument("--report", type=int, default=50, help="steps between log lines")
    parser.add_argument("--save-every", type=float, default=120, help="seconds between checkpoints")
    parser.add_argument("--resume", action="store_true")
    end = parser.add_argument_group("end phase")
    end.add_argument("--init", type=Path, help="checkpoint to start from")
    end.add_argument("--also", type=Path, nargs="*", default=[], help="further teachers")
    end.add_argument("--guides", default="res1_3,res2_5,res3_1", help="blocks to hold to the maps")
    end.add_argument("--guide-weight", type=float, default=0.5)
    end.add_argument("--freeze", type=int, default=0, help="leave the first blocks as they are")
    end.add_argument("--average", type=float, default=0.995, help="decay of the weight average")
    end.add_argument("--warm", type=int, default=50)
    end.add_argument("--strength", choices=list(STRENGTHS), default="moderate")
    return parser


def main(argv: list[str]) -> int:
    args = arguments().parse_args(argv)
    return train_blocks(args) if args.phase == "blocks" else train_end(args)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
