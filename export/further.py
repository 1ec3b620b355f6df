"""`python -m export further`: train an embedder on, towards what several teachers say of the clean
picture, at any degradation.

No teacher runs while training: the aims are cached (`export targets`) and reduced to the student's
width (`aims.reduce`), so a step costs the student's own passes. Three parts make the loss: the
cosine to the picture's own aim; the cosines within the batch, which should be the teachers'; and a
margin softmax over the mean aims of all labelled people, relatives among them, and over the aims of
the batch's unlabelled pictures. The length of the embedding learns the cosine that the network
reaches on that picture: how much could be recognised.

Choice between states goes by held-out families and people alone (`Watch`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from edgeface.errors import ArgumentError
from export.aims import Floats, joint, prototypes, reduce, units
from export.augment import STRENGTHS
from export.data import Pack, hold_out, open_pack
from export.frozen import Frozen
from export.heldout import embed, watch_of
from export.losses import cosface_logits, relational_distillation
from export.networks.mobilefacenet import Head, MobileFaceNet, build
from export.teachers import target_file, to_input
from export.training import (
    Course,
    Journal,
    as_tensor,
    batches,
    optimiser,
    save,
    set_rate,
)

CHECKPOINT = "further.pt"
MARGIN, SCALE = 0.25, 24.0


def turned(aims: Floats, embeddings: Floats) -> Floats:
    """The rotation (d, d) of the aims (n, d) that brings them nearest to what the network says of
    the same pictures (orthogonal Procrustes, Schönemann 1966). Cosines among aims stay as they are,
    so a network that comes from another space keeps its last layer, and what it knows."""
    u, _, v = np.linalg.svd(aims.T.astype(np.float64) @ embeddings)
    return np.asarray(u @ v, np.float32)


@torch.no_grad()
def lengthened(network: MobileFaceNet, factor: float) -> None:
    """Make the network's embeddings `factor` times as long, in place."""
    head = network.blocks["head"]
    assert isinstance(head, Head)
    head.norm.weight.mul_(factor)
    head.norm.bias.mul_(factor)


class Trainee(nn.Module):
    """The network in training, the head's per-picture statistics as they are: one sample a picture
    is too few for batch statistics. With `since` only that block and those after it learn, from
    what the others say when the training begins."""

    def __init__(self, network: MobileFaceNet, since: str = "") -> None:
        super().__init__()
        self.network = network
        names = list(network.blocks)
        if since and since not in names:
            raise ArgumentError(f"no block {since!r}; the network has {', '.join(names)}")
        at = names.index(since) if since else 0
        self.learning = [network.blocks[name] for name in names[at:]]
        for name in names[:at]:
            network.blocks[name].requires_grad_(False)
        self.fixed = [network.blocks[name] for name in names[:at]]
        self.frozen = Frozen(network, names[:at]) if at else None

    def forward(self, image: Tensor) -> Tensor:
        if self.frozen is None:
            out: Tensor = self.network(image)
            return out
        x = self.frozen(image)
        for block in self.learning:
            x = block(x)
        return x

    def train(self, mode: bool = True) -> Trainee:
        super().train(mode)
        for module in self.fixed:
            module.eval()
        head = self.network.blocks["head"]
        assert isinstance(head, Head)
        head.norm.eval()
        head.pool.eval()
        return self


def loss_parts(embedding: Tensor, aim: Tensor, label: Tensor, people: Tensor) -> dict[str, Tensor]:
    """Parts of the loss, see the module's text; `label` (n,) is -1 where nobody is known."""
    unit = functional.normalize(embedding, dim=1)
    cosine = (unit * aim).sum(1)
    unknown = label < 0
    classes = torch.cat([people, aim[unknown]])
    label = label.clone()
    label[unknown] = len(people) + torch.arange(int(unknown.sum()))
    logits = cosface_logits(unit @ classes.T, label, margin=MARGIN, scale=SCALE)
    return {
        "cosine": 2 * (1 - cosine).mean(),
        "structure": 4 * relational_distillation(unit, aim),
        "people": 0.1 * functional.cross_entropy(logits, label),
        "length": (embedding.norm(dim=1) - cosine.detach().clamp(min=0)).square().mean(),
    }


def averaging(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor | int], None]:
    """How `AveragedModel` takes in a step's weights: exponentially with `decay`, of the first steps
    with less, so that what a run begins with is soon forgotten."""

    @torch.no_grad()
    def update(means: list[Tensor], values: list[Tensor], count: Tensor | int) -> None:
        share = max(1 - decay, 9 / (10 + int(count)))
        for mean, value in zip(means, values, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value.to(mean.dtype), share)
            else:
                mean.copy_(value)

    return update


def rate_at(step: int, steps: int, peak: float, warm: int, cool: int) -> float:
    """Linear warm-up, level, and over the last `cool` steps linearly down to a hundredth."""
    if step < warm:
        return peak * (step + 1) / warm
    return peak * max(0.01, min(1.0, (steps - step) / max(1, cool)))


def chances(data: Pack, rows: NDArray[np.int64], shares: dict[str, float]) -> Floats:
    """(len(rows),) chance of every row: its set's share (1 where none is given)."""
    each = np.array([shares.get(data.paths[r].split("/", 1)[0], 1.0) for r in rows], np.float32)
    return each / each.sum()


@dataclass(slots=True, eq=False)
class Run:
    """One training: the network, its average, the optimiser, and what it is aimed at. `began` is
    the step it goes on from, `aims` (N, width) of the pack's rows after their `turn`, `rows` those
    trained on."""

    name: str
    network: MobileFaceNet
    average: AveragedModel
    optimizer: torch.optim.AdamW
    trainee: Trainee
    data: Pack
    rows: NDArray[np.int64]
    aims: Floats
    turn: Floats
    began: int

    def save(self, path: Path, step: int) -> None:
        save(
            path,
            network=self.name,
            phase="further",
            step=step,
            averaged=int(self.average.n_averaged),
            turn=torch.from_numpy(self.turn),
            student=self.average.module.state_dict(),
            model=self.network.state_dict(),
            optimizer=self.optimizer.state_dict(),
        )


def open_run(args: argparse.Namespace) -> Run:
    """The run's own state with `--resume`, otherwise `--init`. The aims are turned to where the
    network is: the directions of the joint space differ from machine to machine; its embeddings'
    length is brought to the cosine it reaches, where the loss will hold it."""
    torch.manual_seed(args.seed)
    data = open_pack(args.pack)
    rows = np.flatnonzero(~hold_out(data) & data.keep)
    resumed = args.resume and (args.out / CHECKPOINT).exists()
    state = torch.load(args.out / CHECKPOINT if resumed else args.init, weights_only=True)
    network = build(state["network"])
    network.load_state_dict(state["student"])
    network.to(memory_format=torch.channels_last)
    sides = joint(args.pack, args.teacher, args.weight)
    aims = reduce(sides, rows, network.spec.embedding)
    if resumed:
        turn = state["turn"].numpy()
    else:
        some = np.sort(np.random.default_rng(args.seed).permutation(rows)[: args.fit])
        made = embed(network, np.asarray(data.images[some]))
        turn = turned(aims[some], units(made))
        cosine = ((aims[some] @ turn) * units(made)).sum(1)
        lengthened(network, float(cosine.mean() / np.linalg.norm(made, axis=1).mean()))
    aims = aims @ turn
    average = AveragedModel(network, multi_avg_fn=averaging(args.average), use_buffers=True)
    trainee = Trainee(network, args.since)
    optimizer = optimiser(trainee, args.decay)
    if resumed:
        network.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.n_averaged.fill_(state.get("averaged", 0))
    began = int(state["step"]) if resumed else 0
    return Run(
        state["network"], network, average, optimizer, trainee, data, rows, aims, turn, began
    )


def train(args: argparse.Namespace) -> int:
    """Train until `--steps`; the checkpoint's `student` is the average of the weights."""
    torch.set_num_threads(args.threads)
    run = open_run(args)
    watch = watch_of(run.data, args.watch)
    people = torch.from_numpy(prototypes(run.aims, run.data.identity, run.rows))
    shares = {name: float(weight) for name, _, weight in (s.partition("=") for s in args.share)}
    course = Course(
        args.pack,
        run.rows,
        args.batch,
        args.seed + 7,
        STRENGTHS[args.strength],
        chances(run.data, run.rows, shares),
    )
    saved = time.monotonic()
    with Journal(args.out / "further.jsonl", args.report) as journal:
        if not run.began:
            journal.line({"step": 0} | watch.figures(run.network))
        run.trainee.train()
        for done, batch in enumerate(batches(course, run.began, args.steps), start=run.began + 1):
            set_rate(run.optimizer, rate_at(done - 1, args.steps, args.rate, args.warm, args.cool))
            parts = loss_parts(
                run.trainee(as_tensor(to_input(batch.images))),
                torch.from_numpy(run.aims[batch.rows]),
                torch.from_numpy(run.data.identity[batch.rows]),
                people,
            )
            run.optimizer.zero_grad(set_to_none=True)
            torch.stack(list(parts.values())).sum().backward()
            nn.utils.clip_grad_norm_(run.trainee.parameters(), 5.0)
            run.optimizer.step()
            run.average.update_parameters(run.network)
            journal.add({name: value.item() for name, value in parts.items()})
            look = done % args.look == 0 or done == args.steps
            if done % args.report == 0 or look:
                found = watch.figures(run.average.module) if look else {}
                journal.line({"step": done, "pictures": done * args.batch} | journal.now() | found)
                run.trainee.train()
            if time.monotonic() - saved > args.save_every or done == args.steps:
                run.save(args.out / CHECKPOINT, done)
                saved = time.monotonic()
    return 0


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export further", description=__doc__)
    parser.add_argument("--pack", type=Path, required=True, help="pack made by `export pack`")
    parser.add_argument("--teacher", type=Path, nargs="+", required=True, help="see `targets`")
    parser.add_argument(
        "--weight", type=float, nargs="*", default=[], help="of every teacher; all alike if none"
    )
    parser.add_argument("--init", type=Path, required=True, help="checkpoint, see `export init`")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint and journal")
    parser.add_argument("--steps", type=int, default=40000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate after the warm-up")
    parser.add_argument("--warm", type=int, default=200, help="steps of linear warm-up")
    parser.add_argument("--cool", type=int, default=4000, help="last steps, the rate falling")
    parser.add_argument("--decay", type=float, default=1e-4, help="weight decay")
    parser.add_argument("--average", type=float, default=0.999, help="decay of the weight average")
    parser.add_argument("--strength", choices=list(STRENGTHS), default="field")
    parser.add_argument("--share", nargs="*", default=[], metavar="SET=WEIGHT", help="of a set")
    parser.add_argument(
        "--since", default="", metavar="BLOCK", help="let only this and later learn"
    )
    parser.add_argument(
        "--fit", type=int, default=3000, help="pictures that the aims are turned by"
    )
    parser.add_argument("--watch", type=int, default=1000, help="held-out pictures looked at a set")
    parser.add_argument("--look", type=int, default=1000, help="steps between looks")
    parser.add_argument("--report", type=int, default=50, help="steps between journal lines")
    parser.add_argument("--save-every", type=float, default=120, help="seconds between checkpoints")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    return parser


def main(argv: list[str]) -> int:
    parser = arguments()
    args = parser.parse_args(argv)
    if args.weight and len(args.weight) != len(args.teacher):
        parser.error(f"--weight has {len(args.weight)} numbers for {len(args.teacher)} teachers")
    cached = [target_file(args.pack, path) for path in args.teacher]
    for path in (args.pack.with_suffix(".npy"), args.init, *cached):
        if not path.exists():
            print(f"further: no file {path}", file=sys.stderr)
            return 2
    return train(args)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
