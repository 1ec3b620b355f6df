"""Train the face detector by dense distillation: `python -m export detector --data DIR`.

Every training picture is labelled on the fly by a YuNet teacher whose grid the student shares, so
each cell has a soft score, a box and landmarks to match and no label assignment is needed. The
teacher sees the picture before mild blur, noise and JPEG, the student after.

Losses: quality focal loss on the score (Li et al., "Generalized Focal Loss", 2020, eq. 4), IoU
plus relative edge distance on boxes, relative L1 on landmarks; boxes and landmarks are weighted by
the teacher's score and count above `CONFIDENT` only.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.networks.detector import STRIDES, FaceDetector
from export.scenes import SceneSampler, degrade, recolour

CONFIDENT = 0.3  # teacher score from which its box and landmarks are worth matching
FOCUS = 1.5  # exponent of the quality focal loss
BOX_WEIGHT, EDGE_WEIGHT, LANDMARK_WEIGHT = 2.0, 4.0, 8.0
DECAY = 0.35  # last share of the schedule, over which the learning rate falls to zero
EMA = 0.999


class Teacher:
    """A YuNet ONNX file; its twelve outputs come back as the student's maps, scores as [0, 1]."""

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])

    def __call__(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """(n, 3, H, W) raw BGR to a list per stride of (n, 15, H/s, W/s), channel 0 the score."""
        # One by one: a batch's activations leave the cache and take three times as long.
        single = [self._maps(images[i : i + 1]) for i in range(len(images))]
        return [np.concatenate(maps) for maps in zip(*single, strict=True)]

    def _maps(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        names = [o.name for o in self.session.get_outputs()]
        out = dict(zip(names, self.session.run(None, {"input": images}), strict=True))
        maps = []
        for stride in STRIDES:
            # The score of YuNet is the geometric mean of class and objectness.
            score = np.sqrt(out[f"cls_{stride}"] * out[f"obj_{stride}"])
            rows = np.concatenate([score, out[f"bbox_{stride}"], out[f"kps_{stride}"]], axis=2)
            h, w = images.shape[2] // stride, images.shape[3] // stride
            maps.append(rows.transpose(0, 2, 1).reshape(len(images), -1, h, w))
        return maps


def edges(box: Tensor) -> Tensor:
    """(m, 4) dx, dy, log w, log h to x1, y1, x2, y2 in strides from the cell's corner."""
    half = box[:, 2:].clamp(-4, 5).exp() / 2
    return torch.cat([box[:, :2] - half, box[:, :2] + half], dim=1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of matching rows of two (m, 4) xyxy sets."""
    wh = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    overlap = wh.prod(1)
    areas = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1)
    return overlap / (areas - overlap).clamp(min=1e-6)


@dataclass(frozen=True, slots=True)
class Losses:
    """The parts of the distillation loss, each a scalar tensor."""

    score: Tensor
    box: Tensor
    landmark: Tensor

    @property
    def total(self) -> Tensor:
        return self.score + self.box + self.landmark


def distillation_loss(student: tuple[Tensor, ...], teacher: list[Tensor]) -> Losses:
    """Loss of student maps (score logits) against teacher maps (scores), see the module's text."""
    ours = torch.cat([m.flatten(2).transpose(1, 2).reshape(-1, m.shape[1]) for m in student])
    theirs = torch.cat([m.flatten(2).transpose(1, 2).reshape(-1, m.shape[1]) for m in teacher])
    target = theirs[:, 0]
    focus = (target - ours[:, 0].detach().sigmoid()).abs() ** FOCUS
    entropy = nn.functional.binary_cross_entropy_with_logits(ours[:, 0], target, reduction="none")
    mass = target[target > CONFIDENT].sum().clamp(min=1.0)
    score = (focus * entropy).sum() / mass

    keep = target > CONFIDENT
    weight = target[keep] / mass
    mine, wanted = edges(ours[keep, 1:5]), edges(theirs[keep, 1:5])
    size = (wanted[:, 2:] - wanted[:, :2]).prod(1).sqrt().clamp(min=1e-3)
    edge = (mine - wanted).abs().mean(1) / size
    box = (weight * (BOX_WEIGHT * (1 - iou(mine, wanted)) + EDGE_WEIGHT * edge)).sum()
    miss = (ours[keep, 5:] - theirs[keep, 5:]).abs().mean(1) / size
    return Losses(score, box, LANDMARK_WEIGHT * (weight * miss).sum())


def learning_rate(step: int, steps: int, base: float, *, warmup: int = 300) -> float:
    """Warm up, hold, then fall linearly to zero over the last `DECAY` of `steps`."""
    return base * min(1.0, (step + 1) / warmup, (steps - step) / (DECAY * steps))


def batch(
    sampler: SceneSampler, teacher: Teacher, n: int, rng: np.random.Generator
) -> tuple[Tensor, list[Tensor]]:
    """Degraded pictures (n, 3, S, S) float32 and the teacher's maps of the clean ones."""
    clean = [recolour(sampler.sample(rng), rng) for _ in range(n)]
    seen = [degrade(image, rng) for image in clean]
    planes = np.ascontiguousarray(np.stack(clean).transpose(0, 3, 1, 2), np.float32)
    images = torch.from_numpy(np.stack(seen)).permute(0, 3, 1, 2).float()
    return images, [torch.from_numpy(m) for m in teacher(planes)]


class Trainer:
    """Network, optimizer, moving average and step counter, saved and restored as one file."""

    def __init__(self, model: FaceDetector, *, lr: float, decay: float = 0.01) -> None:
        self.average = copy.deepcopy(model).eval()
        self.model = model.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, weight_decay=decay)
        self.lr, self.step, self.batch = lr, 0, 0

    def save(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "batch": self.batch,
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def restore(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def update(self, images: Tensor, wanted: list[Tensor], *, steps: int) -> Losses:
        """One optimizer step on one batch."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, steps, self.lr)
        self.model.train()
        with torch.autocast("cpu", torch.bfloat16):
            maps = self.model(images.contiguous(memory_format=torch.channels_last))
        self.batch = len(images)
        losses = distillation_loss(maps, wanted)
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimizer.step()
        self.step += 1
        keep = min(EMA, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            ours, theirs = self.average.state_dict(), self.model.state_dict()
            for name, value in ours.items():
                if value.is_floating_point():
                    value.lerp_(theirs[name], 1 - keep)
                else:
                    value.copy_(theirs[name])
        return losses


def train(args: argparse.Namespace) -> None:
    """Run or resume the schedule; every step has its own seed, so resuming changes nothing."""
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "detector.pt"
    torch.manual_seed(args.seed)
    trainer = Trainer(FaceDetector(), lr=args.lr)
    if args.resume and checkpoint.exists():
        trainer.restore(checkpoint)
    teacher = Teacher(args.teacher)
    loading = np.random.default_rng(args.seed)
    sampler = SceneSampler.from_folder(args.data, loading, n_crops=args.crops, size=args.size)
    start, first, recent = time.monotonic(), trainer.step, []
    while trainer.step < args.steps:
        rng = np.random.default_rng([args.seed, trainer.step])
        losses = trainer.update(*batch(sampler, teacher, args.batch, rng), steps=args.steps)
        recent.append([losses.score.item(), losses.box.item(), losses.landmark.item()])
        if trainer.step % args.every == 0 or trainer.step == args.steps:
            trainer.save(checkpoint)
            score, box, landmark = np.mean(recent, axis=0)
            recent.clear()
            pace = (time.monotonic() - start) / (trainer.step - first)
            print(
                f"step {trainer.step}/{args.steps} score {score:.4f} box {box:.4f} "
                f"landmark {landmark:.4f} · {pace:.3f} s/step, "
                f"{pace * (args.steps - trainer.step) / 60:.0f} min left",
                file=sys.stderr,
                flush=True,
            )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export detector", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with scenes/ and faces/")
    parser.add_argument("--teacher", type=Path, required=True, help="YuNet ONNX, dynamic batch")
    parser.add_argument("--out", type=Path, default=Path("runs/detector"))
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=320, help="px, a multiple of 32")
    parser.add_argument("--crops", type=int, default=12000, help="face crops kept in memory")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="continue from OUT/detector.pt")
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    torch.set_num_threads(args.threads)
    train(args)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
