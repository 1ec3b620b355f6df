"""`python -m export train siamese --data DIR`: one-shot matching, contrastive or triplet.

`--network head` (default) learns a linear map on the frozen embeddings of a shipped embedder,
starting as the identity, so that before and after differ by what was learned and nothing else; it
costs a CPU minutes, and `--fold` writes it into a checkpoint of that embedder, ready for export.
`--network inception-resnet-v1` trains that network on the pictures, turned, mirrored and tinted as
the original does, its batch normalisation frozen when it starts from given weights (`--init`).

Either is written as `match.onnx` with its card, for `edgeface verify --model OUT/match.onnx` and
`identify`; the threshold is that of the people held out.

With `--pairs LIST` instead of folders a batch is P pairs of a list, `PICTURE PICTURE SAME` a line,
see `export/siamese_pairs.py`. `--test LIST` draws F1 and accuracy over the threshold, before and
after, as `test.png` and `test.json`, on the pairs of which no picture is trained on; it is a gate
as `--lfw` is.

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
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface.embed import DEFAULT, Embedder
from edgeface.errors import DataError, EdgefaceError
from edgeface.metrics import equal_error_rate, tar_at_far
from export.checkpoint import read_checkpoint
from export.classes import (
    DataError as ClassesError,
)
from export.classes import (
    Split,
    choose_device,
    draw_curves,
    open_data,
    split_people,
    verification,
)
from export.data import Pack
from export.networks.inception_resnet import InceptionResNetV1
from export.protocols.lfw import read_lfw, verify
from export.siamese_fit import MARGIN, Course, Inputs, Outcome, PeopleCourse, embed, fit
from export.siamese_onnx import ship
from export.siamese_pairs import (
    Listed,
    PairCourse,
    best,
    curve,
    draw,
    hold_out,
    read_list,
    scores,
)
from export.teachers import to_input
from export.threshold import Measured, measure, measure_pairs
from export.to_onnx import load_network
from export.training import save

# Cosine of a checkpoint and the model exported from it: .99 and more with 8-bit integers.
SAME_NETWORK = 0.97


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export train siamese", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of people, or a pack")
    parser.add_argument("--pairs", type=Path, help="a list of pairs to train on instead")
    parser.add_argument("--test", type=Path, help="a list of pairs to judge by: the other gate")
    parser.add_argument("--root", type=Path, help="where the lists' pictures are; default: by them")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--network", choices=["head", "inception-resnet-v1"], default="head")
    parser.add_argument("--embedder", default=DEFAULT, help="embedder under the head")
    parser.add_argument("--init", type=Path, help="state of the whole network to start from")
    parser.add_argument("--loss", choices=["contrastive", "triplet"], default="triplet")
    parser.add_argument("--margin", type=float, help="default: 1.0 contrastive, 0.2 triplet")
    parser.add_argument("--people", type=int, default=32, help="P of a batch; of lists, pairs")
    parser.add_argument("--pictures", type=int, default=4, help="K of a batch")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--schedule", choices=["cosine", "plateau"], default="cosine")
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


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What is trained on and judged by: rows `seen`, the course over them, the figures of the
    network as it is, and what the threshold is found by; `count` says how much of it there is."""

    seen: NDArray[Any]
    course: Course
    judge: Callable[[], tuple[float, float]]
    measure: Callable[[], Measured]
    images: NDArray[np.uint8]
    count: dict[str, int]


def of_people(args: argparse.Namespace, inputs: Inputs, network: nn.Module) -> Lesson:
    """Folders of people, some held out."""
    _, data = open_data(args.data, args.out)
    split = limited(data, split_people(data), args.most)
    seen: NDArray[Any] = data.images
    if inputs.embedder:
        rows = np.concatenate([split.train, split.held])
        seen = np.zeros((len(data.identity), inputs.embedder.size), np.float32)
        seen[rows] = inputs.of(data.images[rows])
    return Lesson(
        seen, PeopleCourse(split, args),
        lambda: verification(embed(network, inputs, seen[split.held]), data.identity[split.held]),
        lambda: measure(data, lambda images: embed(network, inputs, inputs.of(images)),
                        split.held, "held-out people"),
        np.asarray(data.images[split.train[:32]]), {"people": split.classes},
    )  # fmt: skip


def of_pairs(
    args: argparse.Namespace, inputs: Inputs, network: nn.Module, listed: Listed
) -> Lesson:
    """A list of pairs, the people of some held out."""
    held = hold_out(listed)
    seen, (index, same) = inputs.of(listed.images), listed.among(held)
    course = PairCourse(
        listed, ~held, size=args.people, loss=args.loss, margin=args.margin or MARGIN[args.loss],
        seed=args.seed,
    )  # fmt: skip

    def judge() -> tuple[float, float]:
        found = scores(embed(network, inputs, seen), index)
        return equal_error_rate(found, same), tar_at_far(found, same, 1e-2)

    def measured() -> Measured:
        rows = embed(network, inputs, seen)
        return measure_pairs(scores(rows, index), same, "held out of the list", rows.shape[1])

    return Lesson(
        seen, course, judge, measured, listed.images[:32],
        {"pairs": len(listed.among(~held)[1]), "pairs_held_out": len(same),
         "pairs_of_one_file_left_out": listed.itself},
    )  # fmt: skip


def judged(
    network: nn.Module, inputs: Inputs, states: dict[str, dict[str, Tensor]], test: Listed,
    target: Path,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Highest F1 and accuracy on a list of the states by name; their curves are drawn."""
    seen, curves = inputs.of(test.images), dict[str, dict[str, list[float]]]()
    found = dict[str, dict[str, float]]()
    for name, state in states.items():
        network.load_state_dict(state)
        similarity = scores(embed(network, inputs, seen), test.index)
        curves[name] = curve(similarity, test.same)
        found[name] = best(similarity, test.same)
    draw(curves, target)
    return found


def unseen(test: Listed, trained: Listed | None) -> Listed:
    """The test list without the pairs that show a picture of the training list."""
    known = {file.resolve() for file in trained.files} if trained else set[Path]()
    fresh = np.array([file.resolve() not in known for file in test.files])
    index, same = test.among(fresh)
    if len(same) < len(test.same):
        print(
            f"siamese: {len(test.same) - len(same)} of {len(test.same)} pairs of --test show a "
            "picture that is trained on, left out",
            file=sys.stderr,
        )
    if not len(same) or same.all() or not same.any():
        raise DataError("--test: no pairs of both kinds are left that are not trained on")
    return replace(test, index=index, same=same)


def main(argv: list[str]) -> int:
    parser = arguments()
    args = parser.parse_args(argv)
    if (args.data is None) == (args.pairs is None):
        parser.error("give either --data or --pairs")
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    inputs = Inputs(args, choose_device(args.device))
    network = make_network(args, inputs)
    try:
        listed = read_list(args.pairs, args.root) if args.pairs else None
        test = unseen(read_list(args.test, args.root), listed) if args.test else None
        lesson = (
            of_pairs(args, inputs, network, listed) if listed else of_people(args, inputs, network)
        )
    except (ClassesError, DataError) as error:
        print(f"siamese: {error}", file=sys.stderr)
        return 1
    if args.fold and inputs.embedder:
        check_same(args.fold, inputs.embedder, lesson.images)
    start = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
    outcome = fit(network, inputs, lesson.course, lesson.seen, lesson.judge, args)
    draw_curves(outcome.history, args.out / "curves.png")
    held = [h for h in outcome.history if "eer" in h]
    report: dict[str, Any] = {
        "loss": args.loss,
        **lesson.count,
        "step_kept": outcome.step,
        "held_out.eer.before": held[0]["eer"],
        "held_out.eer.after": min(h["eer"] for h in held),
    }
    if args.lfw:
        network.load_state_dict(start)
        outcome, figures = gate(network, inputs, outcome, args.lfw)
        report |= figures | {"step_kept": outcome.step}
    if test is not None:
        states = {"before": start, "after": outcome.state}
        found = judged(network, inputs, states, test, args.out / "test.png")
        if any(found["after"][name] < found["before"][name] for name in found["before"]):
            print("siamese: worse on --test than pretrained, which is kept", file=sys.stderr)
            outcome = Outcome(start, 0, outcome.history)
        report |= {f"test.{name}.{k}": v for name, own in found.items() for k, v in own.items()}
        report |= {"test.pairs": len(test.same), "step_kept": outcome.step}
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
        card = ship(args.out / "match.onnx", base, network, lesson.measure())
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
