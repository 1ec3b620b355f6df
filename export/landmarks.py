"""Train the network that reads five points in an upright patch: `python -m export landmarks`.

Patches are cut on the fly (`landmarks_data`); each step has its own seed, so that `--resume`
changes nothing. A quarter of an hour of one core.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface.detect import patches, pose
from edgeface.detect.landmarks import EYES, SIDE
from edgeface.types import Array
from export.averaged import Averaged
from export.landmarks_data import Sampler, View, crop_views, rough, sampler
from export.networks.landmarks import PointNetwork

BEND = 0.4  # px below which the loss is square
FACE = 0.6  # weight of the question whether there is a face, beside px of the points
WATCHED = 600  # held-out crops that are looked at while it trains


def learning_rate(step: int, steps: int, base: float, *, warmup: int = 200) -> float:
    """Warm up, then fall to zero along half a cosine."""
    return base * min((step + 1) / warmup, 0.5 + 0.5 * float(np.cos(np.pi * step / steps)))


Drawn = tuple[NDArray[np.uint8], Array, NDArray[np.bool_]]


def draw(source: Sampler, n: int, seed: int, step: int) -> Drawn:
    """Patches (n, SIDE, SIDE, 3) of a step, points (n, 10) px, and whether each shows a face."""
    rng = np.random.default_rng([seed, step])
    patches, points, faces = zip(*(source.sample(rng) for _ in range(n)), strict=True)
    return np.stack(patches), np.stack(points).astype(np.float32).reshape(n, 10), np.array(faces)


def _drawn(n: int, seed: int, step: int) -> Drawn:
    return draw(_SOURCE[0], n, seed, step)


_SOURCE: list[Sampler] = []  # of a process that draws, which has it from the one that trains


def batches(source: Sampler, n: int, seed: int, steps: range, workers: int) -> Iterator[Drawn]:
    """What `draw` gives for every step, drawn by so many processes beside this one."""
    if not workers:
        yield from (draw(source, n, seed, step) for step in steps)
        return
    _SOURCE[:] = [source]
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        coming: deque[Future[Drawn]] = deque()
        for step in steps:
            coming.append(pool.submit(_drawn, n, seed, step))
            if len(coming) > 2 * workers:
                yield coming.popleft().result()
        for one in coming:
            yield one.result()


def loss(answers: Tensor, wanted: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Mean distance of the points of faces in px, nearly, and cross entropy of the question."""
    each = nn.functional.smooth_l1_loss(answers[:, :10], wanted, beta=BEND, reduction="none")
    points = (each.mean(1) * faces).sum() / faces.sum().clamp(min=1)
    score = nn.functional.binary_cross_entropy_with_logits(answers[:, 10], faces)
    return points, score


class Trainer(Averaged[PointNetwork]):
    """The network of landmarks in training."""

    def __init__(self, *, lr: float) -> None:
        super().__init__(PointNetwork(), lr=lr)

    def update(self, drawn: Drawn, *, steps: int) -> tuple[float, float]:
        """One optimizer step on one batch; the two losses."""
        images = torch.from_numpy(drawn[0]).permute(0, 3, 1, 2).float()
        wanted, faces = torch.from_numpy(drawn[1]), torch.from_numpy(drawn[2]).float()
        self.batch = len(images)
        self.model.train()
        with torch.autocast("cpu", torch.bfloat16):
            answers = self.model(images.contiguous(memory_format=torch.channels_last))
        points, score = loss(answers, wanted, faces)
        rate = learning_rate(self.step, steps, self.lr)
        self.descend(points + FACE * score, rate=rate, longest=5.0)
        return points.item(), score.item()


def read_points(network: nn.Module, images: Sequence[Array], seen: Array) -> Array:
    """Points (n, 5, 2) that a network in eval mode reads where the points `seen` suggest."""
    matrices = [pose.upright(points, SIDE, EYES) for points in seen]
    cut = [patches.cut(np.asarray(i), m, SIDE) for i, m in zip(images, matrices, strict=True)]
    stack = torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        answers = network(stack)[:, :10].numpy().reshape(-1, 5, 2)
    return np.stack([patches.back(m, a) for m, a in zip(matrices, answers, strict=True)])


def watch(network: nn.Module, views: Sequence[View]) -> list[float]:
    """Mean error on views, share of the distance between the eyes: of a first look as the training
    has it, and after reading once, twice and three times."""
    rng = np.random.default_rng(0)
    images = [np.asarray(v.image) for v in views]
    true = np.stack([v.points for v in views])
    eyes = np.maximum(np.linalg.norm(true[:, 0] - true[:, 1], axis=1), 1)
    seen, errors = np.stack([rough(v.points, rng) for v in views]), []
    for turn in range(4):
        seen = read_points(network, images, seen) if turn else seen
        apart = np.linalg.norm(seen - true, axis=2).mean(1) / eyes
        errors.append(float(apart.mean()))
    return errors


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export landmarks", description=__doc__)
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--crops", type=Path, required=True, help="what landmarks-labels wrote")
    parser.add_argument("--data", type=Path, required=True, help="folder with scenes/")
    parser.add_argument("--labels", type=Path, required=True, help="folder of detector-labels")
    parser.add_argument("--out", type=Path, default=Path("runs/landmarks"))
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw patches")
    parser.add_argument("--resume", action="store_true", help="continue from OUT/landmarks.pt")
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint, trainer = args.out / "landmarks.pt", Trainer(lr=args.lr)
    if args.resume and checkpoint.exists():
        trainer.restore(checkpoint)
    crops, held = crop_views(args.pack, args.crops)
    source = sampler(args.data, args.labels, crops)
    print(f"{len(crops)} crops, {len(source.scenes)} faces of scenes", file=sys.stderr, flush=True)
    start, first, recent = time.monotonic(), trainer.step, []
    steps = range(first, args.steps)
    for drawn in batches(source, args.batch, args.seed, steps, args.workers):
        recent.append(trainer.update(drawn, steps=args.steps))
        if trainer.step % args.every == 0 or trainer.step == args.steps:
            trainer.save(checkpoint)
            points, score = np.mean(recent, axis=0)
            recent.clear()
            errors = " ".join(f"{e:.4f}" for e in watch(trainer.average, held[:WATCHED]))
            pace = (time.monotonic() - start) / (trainer.step - first)
            print(
                f"step {trainer.step}/{args.steps} points {points:.3f} px, face {score:.4f}; "
                f"held out {errors}; {pace:.3f} s/step",
                file=sys.stderr,
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
