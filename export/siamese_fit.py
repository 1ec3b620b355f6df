"""The training of `siamese`: what a batch is, and which state is kept."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface.embed import Embedder
from export.classes import Bar, Floats, Ints, PeopleBatches, Split
from export.losses import contrastive, triplet_batch_hard
from export.networks.inception_resnet import freeze_norms
from export.siamese_pairs import vary
from export.teachers import to_input
from export.training import cosine_rate, finite

MARGIN = {"contrastive": 1.0, "triplet": 0.2}


class Inputs:
    """What the trained network sees of a row: its frozen embedding, or its picture."""

    def __init__(self, args: argparse.Namespace, device: torch.device) -> None:
        self.device = device
        head = args.network == "head"
        self.embedder = Embedder.load(args.embedder, threads=args.threads) if head else None

    def of(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        return self.embedder(np.ascontiguousarray(images)) if self.embedder else images

    def varied(self, part: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Pictures a little changed, for training; embeddings as they are."""
        return part if self.embedder else vary(np.asarray(part), rng)

    def tensor(self, part: NDArray[np.generic]) -> Tensor:
        values = part if self.embedder else to_input(np.asarray(part))
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)


def embed(network: nn.Module, inputs: Inputs, seen: NDArray[np.generic]) -> Floats:
    """Unit rows; leaves the network in evaluation mode."""
    network.eval()
    rows = []
    with torch.no_grad():
        for i in range(0, len(seen), 64):
            out = network(inputs.tensor(seen[i : i + 64]))
            rows.append(nn.functional.normalize(out, dim=1).cpu().numpy())
    return np.concatenate(rows)


class Course(Protocol):
    """Batches: rows by step, and the loss of what the network makes of them."""

    def at(self, step: int) -> Ints: ...

    def loss(self, out: Tensor, rows: Ints) -> Tensor: ...


class PeopleCourse:
    """P people with K pictures each; rows are of the pack."""

    def __init__(self, split: Split, args: argparse.Namespace) -> None:
        self._label, self._loss = split.label, args.loss
        self._margin = args.margin or MARGIN[args.loss]
        self._batches = PeopleBatches(
            split, people=args.people, pictures=args.pictures, seed=args.seed
        )

    def at(self, step: int) -> Ints:
        return self._batches.at(step)[0]

    def loss(self, out: Tensor, rows: Ints) -> Tensor:
        label = torch.from_numpy(self._label[rows]).to(out.device)
        if self._loss == "triplet":
            return triplet_batch_hard(out, label, margin=self._margin)
        return pair_loss(out, label, self._margin)


def pair_loss(out: Tensor, label: Tensor, margin: float) -> Tensor:
    """Contrastive over all positive pairs of a batch and as many of its nearest negatives: most
    negatives are past the margin and teach nothing."""
    unit = nn.functional.normalize(out.detach(), dim=1)
    i, j = torch.triu_indices(len(label), len(label), 1, device=label.device)
    same = label[i] == label[j]
    nearest = (unit[i] * unit[j]).sum(1).masked_fill(same, -torch.inf)
    negative = nearest.topk(min(int(same.sum()), int((~same).sum()))).indices
    chosen = torch.cat([same.nonzero()[:, 0], negative])
    return contrastive(out[i[chosen]], out[j[chosen]], same[chosen], margin=margin)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """`state` of the network to keep, the step it comes from (0: pretrained), and the history."""

    state: dict[str, Tensor]
    step: int
    history: list[dict[str, float]]


def fit(
    network: nn.Module,
    inputs: Inputs,
    course: Course,
    seen: NDArray[Any],
    judge: Callable[[], tuple[float, float]],
    args: argparse.Namespace,
) -> Outcome:
    """Train on the rows of `seen` that the course names; the best state by the equal error rate of
    `judge`, which also gives a TAR, the initial state among them. The rate falls with the cosine of
    the step, or by half whenever two validations were no better (plateau)."""
    optimizer = torch.optim.Adam(network.parameters(), lr=args.rate)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    bar, history, worse = Bar(args.loss, args.steps), list[dict[str, float]](), 0
    best, kept, kept_step = np.inf, dict[str, Tensor](), 0
    frozen = inputs.embedder is not None or args.init is not None
    for step in range(args.steps + 1):
        if step % args.every == 0 or step == args.steps:
            eer, tar = judge()
            plateau.step(eer)
            history.append({"step": step, "eer": eer, "tar": tar})
            worse = worse + 1 if eer >= best else 0
            if eer < best:
                best, kept_step = eer, step
                kept = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
            if worse > args.patience:
                break
        if step == args.steps:
            break
        network.train()
        if frozen:
            freeze_norms(network)
        rows = course.at(step)
        varied = inputs.varied(seen[rows], np.random.default_rng([args.seed, step]))
        loss = course.loss(network(inputs.tensor(varied)), rows)
        if args.schedule == "cosine":
            for group in optimizer.param_groups:
                group["lr"] = cosine_rate(step, args.steps, args.rate, 20)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        history.append({"step": step + 1, "loss": loss.item()})
        finite(loss.item(), step + 1)
        bar.show(step + 1, f"loss {loss.item():.3f}, EER {100 * best:.2f} %")
    print(file=sys.stderr)
    return Outcome(kept, kept_step, history)
