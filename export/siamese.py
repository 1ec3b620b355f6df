"""`python -m export train siamese --data DIR`: one-shot matching, contrastive or triplet.

`--network head` (default) learns a linear map on the frozen embeddings of a shipped embedder,
starting as the identity, so that before and after differ by what was learned and nothing else; it
costs a CPU minutes, and `--fold` writes it into a checkpoint of that embedder, ready for export.
`--network inception-resnet-v1` trains that network on the pictures, its batch normalisation frozen
when it starts from given weights (`--init`).

Either is written as `match.onnx` with its card, for `edgeface verify --model OUT/match.onnx` and
`identify`; the threshold is that of the people held out.

A batch is P people with K pictures each: triplets take the farthest positive and the nearest
negative (batch hard), contrastive pairs all positives and as many of the nearest negatives. The
validation figure is the equal error rate over people not trained on. With `--lfw` the ten folds are
measured before and after, and where after is the lower one the pretrained state is what is kept:
fine-tuned is never worse than pretrained.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface.embed import DEFAULT, Embedder
from edgeface.errors import EdgefaceError
from export.checkpoint import read_checkpoint
from export.classes import (
    Bar,
    DataError,
    Floats,
    Ints,
    PeopleBatches,
    Split,
    choose_device,
    draw_curves,
    open_data,
    split_people,
    verification,
)
from export.data import Pack
from export.losses import contrastive, triplet_batch_hard
from export.networks.inception_resnet import InceptionResNetV1, freeze_norms
from export.protocols.lfw import read_lfw, verify
from export.siamese_onnx import ship
from export.teachers import to_input
from export.to_onnx import load_network
from export.training import cosine_rate, finite, save

# Cosine of a checkpoint and the model exported from it: .99 and more with 8-bit integers.
SAME_NETWORK = 0.97


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export train siamese", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of people, or a pack")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--network", choices=["head", "inception-resnet-v1"], default="head")
    parser.add_argument("--embedder", default=DEFAULT, help="embedder under the head")
    parser.add_argument("--init", type=Path, help="state of the whole network to start from")
    parser.add_argument("--loss", choices=["contrastive", "triplet"], default="triplet")
    parser.add_argument("--margin", type=float, help="default: 1.0 contrastive, 0.2 triplet")
    parser.add_argument("--people", type=int, default=32, help="P of a batch")
    parser.add_argument("--pictures", type=int, default=4, help="K of a batch")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--every", type=int, default=50, help="steps between validations")
    parser.add_argument("--patience", type=int, default=5, help="validations without a better one")
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--most", type=int, help="train on at most so many people")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lfw", type=Path, help="folder with pairs.txt and aligned112: the gate")
    parser.add_argument("--fold", type=Path, help="embedder checkpoint to write the head into")
    return parser


class Inputs:
    """What the trained network sees of a row: its frozen embedding, or its picture."""

    def __init__(self, args: argparse.Namespace, device: torch.device) -> None:
        self.device = device
        head = args.network == "head"
        self.embedder = Embedder.load(args.embedder, threads=args.threads) if head else None

    def of(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        return self.embedder(np.ascontiguousarray(images)) if self.embedder else images

    def tensor(self, part: NDArray[np.generic]) -> Tensor:
        values = part if self.embedder else to_input(np.asarray(part))
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)


def make_network(args: argparse.Namespace, inputs: Inputs) -> nn.Module:
    torch.manual_seed(args.seed)
    network: nn.Module
    if inputs.embedder:
        network = nn.Linear(inputs.embedder.size, inputs.embedder.size, bias=False)
        nn.init.eye_(network.weight)
    else:
        network = InceptionResNetV1()
    if args.init:
        network.load_state_dict(read_checkpoint(args.init, "network")["network"])
    return network.to(inputs.device)


def embed(network: nn.Module, inputs: Inputs, seen: NDArray[np.generic]) -> Floats:
    """Unit rows; leaves the network in evaluation mode."""
    network.eval()
    rows = []
    with torch.no_grad():
        for i in range(0, len(seen), 64):
            out = network(inputs.tensor(seen[i : i + 64]))
            rows.append(nn.functional.normalize(out, dim=1).cpu().numpy())
    return np.concatenate(rows)


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
    network: nn.Module, inputs: Inputs, seen: dict[str, NDArray[np.generic]], split: Split,
    person: Ints, args: argparse.Namespace,
) -> Outcome:  # fmt: skip
    """Train on `seen["train"]` (rows of `split.train`, in order); the best state by the equal error
    rate on `seen["held"]`, the initial one among them."""
    margin = args.margin or (1.0 if args.loss == "contrastive" else 0.2)
    place = np.full(len(person), -1)
    place[split.train] = np.arange(len(split.train))
    batches = PeopleBatches(split, people=args.people, pictures=args.pictures, seed=args.seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=args.rate)
    bar, history, worse = Bar(args.loss, args.steps), list[dict[str, float]](), 0
    best, kept, kept_step = np.inf, dict[str, Tensor](), 0
    frozen = inputs.embedder is not None or args.init is not None
    for step in range(args.steps + 1):
        if step % args.every == 0 or step == args.steps:
            eer, tar = verification(embed(network, inputs, seen["held"]), person[split.held])
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
        rows, label = batches.at(step)
        out = network(inputs.tensor(seen["train"][place[rows]]))
        labels = torch.from_numpy(label).to(out.device)
        loss = (
            triplet_batch_hard(out, labels, margin=margin)
            if args.loss == "triplet"
            else pair_loss(out, labels, margin)
        )
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


def fold_head(weight: Tensor, checkpoint: Path, target: Path) -> None:
    """Write an embedder checkpoint whose raw embedding is `weight` times the old one: the head's
    linear layer takes it all, its normalisation becomes a plain shift."""
    state = read_checkpoint(checkpoint, "network", "student", "step")
    student, name = dict(state["student"]), "blocks.head"
    scale = student[f"{name}.norm.weight"] / (student[f"{name}.norm.running_var"] + 1e-5).sqrt()
    shift = student[f"{name}.norm.bias"] - student[f"{name}.norm.running_mean"] * scale
    student[f"{name}.linear.weight"] = weight @ (scale[:, None] * student[f"{name}.linear.weight"])
    ones = torch.ones_like(scale)
    student[f"{name}.norm.running_var"] = ones - 1e-5
    student[f"{name}.norm.running_mean"] = 0 * ones
    student[f"{name}.norm.weight"], student[f"{name}.norm.bias"] = ones, weight @ shift
    save(target, network=state["network"], phase="siamese", step=state["step"], student=student)


def check_same(checkpoint: Path, embedder: Embedder, images: NDArray[np.uint8]) -> None:
    """EdgefaceError unless the checkpoint is of the embedder under the head: a head that was learnt
    on one network's embeddings is noise to another's."""
    network, _ = load_network(checkpoint)
    with torch.no_grad():
        raw = network(torch.from_numpy(to_input(images))).numpy()
    theirs = embedder(np.ascontiguousarray(images))
    cosine = -1.0
    if raw.shape == theirs.shape:
        unit = raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-12)
        cosine = float((unit * theirs).sum(1).mean())
    if cosine < SAME_NETWORK:
        raise EdgefaceError(
            f"{checkpoint} is not the checkpoint of {embedder.card.name}, on whose embeddings the "
            f"head is trained (cosine {cosine:.3f} on the same pictures): give --fold the one it "
            "was exported from, or --embedder the model exported from it"
        )


def gate(
    network: nn.Module, inputs: Inputs, outcome: Outcome, lfw: Path
) -> tuple[Outcome, dict[str, float]]:
    """The outcome, or the pretrained state where LFW says that was better, and both figures."""
    images, index, same, fold = read_lfw(lfw)
    seen = inputs.of(images)
    before_state = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
    figures: dict[str, float] = {}
    for key, state in (("before", before_state), ("after", outcome.state)):
        network.load_state_dict(state)
        values = verify(embed(network, inputs, seen), index, same, fold)
        figures |= {f"{name}.{key}": value for name, value in values.items()}
    if figures["lfw.after"] < figures["lfw.before"]:
        print("siamese: worse on LFW than pretrained, which is kept", file=sys.stderr)
        outcome = Outcome(before_state, 0, outcome.history)
        figures |= {k.replace("before", "kept"): v for k, v in figures.items() if "before" in k}
    else:
        figures |= {k.replace("after", "kept"): v for k, v in figures.items() if "after" in k}
    return outcome, figures


def limited(data: Pack, split: Split, most: int | None) -> Split:
    """At most `most` people to train on."""
    if most is None or split.classes <= most:
        return split
    label = np.where(split.label < most, split.label, -1)
    return Split(np.flatnonzero(label >= 0), split.held, label, most)


def main(argv: list[str]) -> int:
    args = arguments().parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    try:
        _, data = open_data(args.data, args.out)
        split = limited(data, split_people(data), args.most)
    except DataError as error:
        print(f"siamese: {error}", file=sys.stderr)
        return 1
    inputs = Inputs(args, choose_device(args.device))
    network = make_network(args, inputs)
    seen = {
        "train": inputs.of(data.images[split.train]),
        "held": inputs.of(data.images[split.held]),
    }
    if args.fold and inputs.embedder:
        check_same(args.fold, inputs.embedder, np.asarray(data.images[split.train[:32]]))
    start = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
    outcome = fit(network, inputs, seen, split, data.identity, args)
    draw_curves(outcome.history, args.out / "curves.png")
    held = [h for h in outcome.history if "eer" in h]
    report = {
        "loss": args.loss,
        "people": split.classes,
        "step_kept": outcome.step,
        "held_out.eer.before": held[0]["eer"],
        "held_out.eer.after": min(h["eer"] for h in held),
    }
    if args.lfw:
        network.load_state_dict(start)
        outcome, figures = gate(network, inputs, outcome, args.lfw)
        report |= figures | {"step_kept": outcome.step}
    save(
        args.out / "siamese.pt",
        network=outcome.state,
        kind=args.network,
        step=outcome.step,
        embedder=inputs.embedder.card.digest if inputs.embedder else "",
    )
    network.load_state_dict(outcome.state)
    base = inputs.embedder.card if inputs.embedder else None
    try:
        card = ship(
            args.out / "match.onnx", base, network,
            lambda images: embed(network, inputs, inputs.of(images)), data, split.held,
        )  # fmt: skip
        report["threshold"] = card.threshold.value
    except EdgefaceError as error:
        print(f"siamese: no match.onnx: {error}", file=sys.stderr)
    if args.fold and inputs.embedder:
        fold_head(outcome.state["weight"], args.fold, args.out / "embedder.pt")
    (args.out / "siamese.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
