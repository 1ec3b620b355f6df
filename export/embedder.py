"""`python -m export train embedder --data DIR`: an embedder from folders of people, with a margin
loss over them (ArcFace or CosFace), from random or from given weights.

Every epoch the equal error rate over people who are not trained on decides: the best network is
what the checkpoint exports, and `--patience` epochs without a better one end the run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeface.errors import EdgefaceError
from export.augment import STRENGTHS
from export.checkpoint import read_checkpoint
from export.classes import (
    Bar,
    DataError,
    Floats,
    Split,
    autocast,
    choose_device,
    draw_curves,
    open_data,
    split_people,
    verification,
)
from export.data import Pack
from export.losses import MarginHead
from export.networks.mobilefacenet import SPECS, build
from export.teachers import to_input
from export.training import (
    Course,
    as_tensor,
    batches,
    cosine_rate,
    finite,
    optimiser,
    save,
    set_rate,
)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export train embedder", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of people, or a pack")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint and curves")
    parser.add_argument("--network", choices=list(SPECS), default="mobilefacenet")
    parser.add_argument("--init", type=Path, help="checkpoint to start from")
    parser.add_argument("--loss", choices=["arcface", "cosface"], default="arcface")
    parser.add_argument("--margin", type=float, default=0.3)
    parser.add_argument("--scale", type=float, default=32.0)
    parser.add_argument("--centres", type=int, default=1, help="per person")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--warm", type=int, default=100, help="steps of linear warm-up")
    parser.add_argument("--decay", type=float, default=5e-4, help="weight decay")
    parser.add_argument("--patience", type=int, default=5, help="epochs without a better figure")
    parser.add_argument("--strength", choices=list(STRENGTHS), default="moderate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--stop-after", type=int, help="steps, to continue later with --resume")
    parser.add_argument("--resume", action="store_true")
    return parser


def embed(network: nn.Module, images: NDArray[np.uint8], device: torch.device) -> Floats:
    """Unit rows of pictures (n, 112, 112, 3) uint8 BGR; leaves the network in evaluation mode."""
    network.eval()
    rows = []
    with torch.no_grad(), autocast(device):
        for i in range(0, len(images), 64):
            x = as_tensor(to_input(np.asarray(images[i : i + 64]))).to(device)
            rows.append(nn.functional.normalize(network(x).float(), dim=1).cpu().numpy())
    return np.concatenate(rows)


class Run:
    """One training: networks, optimiser, history, and the best network so far."""

    def __init__(
        self, args: argparse.Namespace, split: Split, device: torch.device, held_out: list[str]
    ) -> None:
        torch.manual_seed(args.seed)
        self.args, self.device, self.split = args, device, split
        self.held_out = held_out
        self.network = build(args.network)
        if args.init:
            self.network.load_state_dict(read_checkpoint(args.init, "student")["student"])
        width = self.network.spec.embedding
        self.head = MarginHead(
            width,
            split.classes,
            kind=args.loss,
            margin=args.margin,
            scale=args.scale,
            centres=args.centres,
        )
        self.both = nn.ModuleList([self.network, self.head]).to(device)
        self.both.to(memory_format=torch.channels_last)
        self.optimizer = optimiser(self.both, args.decay)
        self.step, self.worse, self.best = 0, 0, float("inf")
        self.student = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.history: list[dict[str, float]] = []

    def train(self, images: NDArray[np.uint8], label: NDArray[np.int64]) -> float:
        """One step; returns the loss."""
        args = self.args
        set_rate(self.optimizer, cosine_rate(self.step, args.total, args.rate, args.warm))
        self.network.train()
        x = as_tensor(to_input(images)).to(self.device)
        with autocast(self.device):
            embedding = self.network(x)
        loss = self.head(embedding.float(), torch.from_numpy(label).to(self.device))
        finite(float(loss.item()), self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.both.parameters(), 5.0)
        self.optimizer.step()
        self.step += 1
        self.history.append({"step": self.step, "loss": float(loss.item())})
        return float(loss.item())

    def validate(self, data: Pack) -> float:
        held = self.split.held
        eer, tar = verification(
            embed(self.network, data.images[held], self.device), data.identity[held]
        )
        self.history.append({"step": self.step, "eer": eer, "tar": tar})
        if eer < self.best:
            self.best, self.worse = eer, 0
            self.student = {k: v.clone() for k, v in self.network.state_dict().items()}
        else:
            self.worse += 1
        return eer

    def save(self, path: Path) -> None:
        save(
            path,
            network=self.args.network,
            phase="margin",
            step=self.step,
            student={k: v.cpu() for k, v in self.student.items()},
            model=self.both.state_dict(),
            optimizer=self.optimizer.state_dict(),
            worse=self.worse,
            best=self.best,
            held_out=self.held_out,
            history=self.history,
        )

    def load(self, path: Path) -> None:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location=self.device)
        self.both.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.student, self.step = state["student"], state["step"]
        self.worse, self.best, self.history = state["worse"], state["best"], state["history"]


def train_embedder(args: argparse.Namespace) -> Run:
    """Train until the epochs or the patience end; writes embedder.pt and curves.png."""
    where, data = open_data(args.data, args.out)
    split = split_people(data)
    device = choose_device(args.device)
    torch.set_num_threads(args.threads)
    epoch = max(1, len(split.train) // args.batch)
    args.total = args.epochs * epoch
    run, checkpoint = Run(args, split, device, split.names(data)), args.out / "embedder.pt"
    if args.resume and checkpoint.exists():
        run.load(checkpoint)
    course = Course(where, split.train, args.batch, args.seed + 7, STRENGTHS[args.strength])
    stop = min(args.total, args.stop_after or args.total)
    bar = Bar(args.network, args.total)
    note = f"{split.classes} people"
    if run.worse <= args.patience:
        for batch in batches(course, run.step, stop):
            loss = run.train(batch.images, split.label[batch.rows])
            if run.step % epoch == 0 or run.step == args.total:
                note = f"EER {100 * run.validate(data):.2f} %, best {100 * run.best:.2f} %"
                run.save(checkpoint)
                draw_curves(run.history, args.out / "curves.png")
            bar.show(run.step, f"loss {loss:.2f}, {note}")
            if run.worse > args.patience:
                print(f"\nno better for {args.patience} epochs: stopped", file=sys.stderr)
                break
    run.save(checkpoint)
    return run


def main(argv: list[str]) -> int:
    args = arguments().parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        run = train_embedder(args)
    except (DataError, EdgefaceError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    print(f"train: {args.out / 'embedder.pt'}, EER {100 * run.best:.2f} % on people held out")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
