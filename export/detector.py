"""Train the face detector: `python -m export detector --data DIR --labels DIR`.

Labels are what several detectors agree on (`detector_labels`); pictures are composed on the fly
(`scenes`), some of their faces disguised. A run starts from a detector there is (`--init`, an ONNX
file or a checkpoint): blocks the file lacks start as the identity.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from export.averaged import Averaged
from export.detector_loss import Losses, detection_loss, wanted
from export.detector_start import starting
from export.disguise import disguise
from export.networks.detector import FaceDetector
from export.scenes import SceneSampler, degrade, recolour

DECAY = 0.6  # last share of the schedule, over which the learning rate falls to zero
Draw = Callable[[int], tuple[tuple[Tensor, ...], list[Tensor]]]  # step to inputs and labels
SETTLING = 8  # batches that give a network read from an ONNX file its batch norms back


def learning_rate(step: int, steps: int, base: float, *, warmup: int = 300) -> float:
    """Warm up, hold, then fall linearly to zero over the last `DECAY` of `steps`."""
    return base * min(1.0, (step + 1) / warmup, (steps - step) / (DECAY * steps))


def batch(sampler: SceneSampler, n: int, rng: np.random.Generator) -> tuple[Tensor, list[Tensor]]:
    """Pictures (n, 3, S, S) float32, raw BGR, and what the network should say of each."""
    pictures = [sampler.sample(rng) for _ in range(n)]
    seen = [degrade(recolour(disguise(p, rng), rng), rng) for p in pictures]
    images = torch.from_numpy(np.stack(seen)).permute(0, 3, 1, 2).float()
    labels = zip(*(wanted(p) for p in pictures), strict=True)
    return images, [torch.from_numpy(np.stack(maps)) for maps in labels]


class Trainer(Averaged[FaceDetector]):
    """The detector in training; the modules `frozen` stay as they are."""

    def __init__(
        self,
        model: FaceDetector,
        *,
        lr: float,
        decay: float = 0.01,
        frozen: Sequence[nn.Module] = (),
    ) -> None:
        for module in frozen:
            module.requires_grad_(False)
        super().__init__(model, lr=lr, decay=decay)
        self.frozen = frozen

    def update(self, inputs: tuple[Tensor, ...], labels: list[Tensor], *, steps: int) -> Losses:
        """One optimizer step on one batch: pictures, or the two maps `FaceDetector.body` made."""
        self.model.train()
        for module in self.frozen:
            module.eval()
        inputs = tuple(x.contiguous(memory_format=torch.channels_last) for x in inputs)
        with torch.autocast("cpu", torch.bfloat16):
            maps = self.model(*inputs) if len(inputs) == 1 else self.model.answer(*inputs)
        self.batch = len(labels[0])
        losses = detection_loss(maps, labels)
        self.descend(losses.total, rate=learning_rate(self.step, steps, self.lr), longest=10.0)
        return losses


def run(trainer: Trainer, draw: Draw, out: Path, *, steps: int, every: int) -> None:
    """Train up to `steps` on what `draw` gives for each step, saving and telling now and then."""
    start, first, recent = time.monotonic(), trainer.step, []
    while trainer.step < steps:
        losses = trainer.update(*draw(trainer.step), steps=steps)
        recent.append([losses.score.item(), losses.box.item(), losses.landmark.item()])
        if trainer.step % every == 0 or trainer.step == steps:
            trainer.save(out)
            score, box, landmark = np.mean(recent, axis=0)
            recent.clear()
            pace = (time.monotonic() - start) / (trainer.step - first)
            print(
                f"step {trainer.step}/{steps} score {score:.4f} box {box:.4f} "
                f"landmark {landmark:.4f} · {pace:.3f} s/step, "
                f"{pace * (steps - trainer.step) / 60:.0f} min left",
                file=sys.stderr,
                flush=True,
            )


def cached(model: FaceDetector, batches: Iterable[tuple[Tensor, list[Tensor]]]) -> Draw:
    """Batches that repeat for ever, as `FaceDetector.body` sees them: nine tenths of a step's work
    are then done once."""
    kept = []
    for images, labels in batches:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            maps = model.eval().body(images.contiguous(memory_format=torch.channels_last))
        kept.append((tuple(m.bfloat16() for m in maps), labels))

    def draw(step: int) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        epoch, place = divmod(step, len(kept))
        return kept[np.random.default_rng([1 << 30, epoch]).permutation(len(kept))[place]]

    return draw


def train(args: argparse.Namespace) -> None:
    """Run or resume the schedule; every step has its own seed, so resuming changes nothing."""
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "detector.pt"
    torch.manual_seed(args.seed)
    sampler = SceneSampler.from_folder(args.data, args.labels, size=args.size)

    def drawn(step: int) -> tuple[Tensor, list[Tensor]]:
        return batch(sampler, args.batch, np.random.default_rng([args.seed, step]))

    model = starting(args.init, (drawn((1 << 30) + k)[0] for k in range(SETTLING)))
    # A quarter of a step's time goes into the gradient of edges and colours already learnt.
    frozen: list[nn.Module] = [] if args.init is None else [model.stem]
    if args.cached:
        frozen += [model.stages[0], model.stages[1]]
    trainer = Trainer(model, lr=args.lr, frozen=frozen)
    if args.resume and checkpoint.exists():
        trainer.restore(checkpoint)
    if args.cached:
        draw = cached(model, (drawn(k) for k in range(args.cached)))
    else:

        def draw(step: int) -> tuple[tuple[Tensor, ...], list[Tensor]]:
            images, labels = drawn(step)
            return (images,), labels

    run(trainer, draw, checkpoint, steps=args.steps, every=args.every)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export detector", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with scenes/ and faces/")
    parser.add_argument("--labels", type=Path, required=True, help="folder of detector-labels")
    parser.add_argument("--init", type=Path, help="ONNX file or checkpoint to start from")
    parser.add_argument("--out", type=Path, default=Path("runs/detector"))
    parser.add_argument(
        "--cached",
        type=int,
        default=0,
        metavar="BATCHES",
        help="train what lies behind stride 16 on this many batches, seen once",
    )
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=320, help="px, a multiple of 32")
    parser.add_argument("--lr", type=float, default=1e-3)
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
