"""`python -m export heads FEATURES -o BANK`: MixMaxSim submodel heads on frozen embeddings.

Classes are split into K submodels, balanced spherical k-means of their centres, or at random (ISM,
Wu et al., ACM MM 2016); each gets one linear ArcFace head (Deng et al., CVPR 2019, s = 64,
m = 0.5), initialised from the class means and stopped early on validation accuracy. All K train in
this process, or with --ray fan out over a Ray cluster: the same weights for the same seed, since a
head depends on nothing but its features, its settings and its own seed.

FEATURES with folders train, val and test (NAME.npz each) is used as it is divided: the rules are
tuned on val, and accuracy and macro precision, recall and F1 of test are printed, with the share of
test that is named rightly at the threshold. For repetitions, every rule and intervals see
`python -m bench submodels --dataset`. With --onnx and --openvino the heads are written in three
precisions; each file is asked about the validation probes and kept only where it gives all of them
the class that the bank gives.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface import score
from edgeface.calibrate import Calibration, from_model
from edgeface.cohort import MOST, Cohort, resemblance
from edgeface.errors import EdgefaceError
from edgeface.metrics import closed_set
from edgeface.models import cards
from edgeface.submodels import KINDS, SubmodelBank, calibrate, unit
from edgeface.types import Threshold
from export.features import Features, centres_of, load_features, load_prepared, split
from export.head_files import export
from export.head_partition import PARTITIONS, partition
from export.head_training import HeadSettings, train_heads, tune_rules

BLOCK = 4096  # probes at a time


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export heads", description=__doc__)
    parser.add_argument("features", type=Path, help=load_features.__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True, help="the bank, NAME.efb")
    parser.add_argument("--embedder", required=True, help="model file, or its SHA-256")
    parser.add_argument("--submodels", type=int, default=4)
    parser.add_argument("--partition", choices=PARTITIONS, default="kmeans")
    parser.add_argument("--rule", choices=[*KINDS, "best"], default="best")
    parser.add_argument("--val", type=int, default=5, help="embeddings per class held out")
    parser.add_argument(
        "--unknown",
        type=Path,
        help="features of strangers, for the threshold; without"
        " them a model of strangers stands in",
    )
    parser.add_argument("--fpir", type=float, default=1e-2)
    parser.add_argument("--epochs", type=int, default=HeadSettings().epochs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--ray", nargs="?", const="local", metavar="ADDRESS", help="fan out over Ray"
    )
    parser.add_argument(
        "--onnx", type=Path, help="also as ONNX, float32, float16 and int8, beside this file"
    )
    parser.add_argument("--openvino", type=Path, help="also as OpenVINO IR (.xml), likewise")
    args = parser.parse_args(argv)
    try:
        return _run(args)
    except (EdgefaceError, ValueError, OSError) as error:
        print(f"heads: {error}", file=sys.stderr)
        return 1


def modelled(centres: NDArray[np.float32], embedder: str, fpir: float) -> Threshold | None:
    """The threshold for classes of these `centres` by the impostor model of the embedder with that
    digest, never below what its card expects; None where it has no such model."""
    card = next((card for card in cards() if card.digest == embedder), None)
    place = None if card is None else card.path.with_suffix(".cohort.npz")
    if card is None or place is None or not place.is_file():
        return None
    size, model = len(centres), Cohort.load(place, model=embedder)
    some = np.random.default_rng(0).permutation(size)[:MOST]
    forecast = model.forecast(size, resemblance([centres[i][None] for i in np.sort(some)]))
    curve = Calibration.of_card(card)
    return from_model(
        forecast.values, forecast.expected, forecast.safe, forecast.high,
        fpir=fpir, size=size, people=model.people, least=model.least(size),
        floor=card.threshold.value if curve is None else curve.default_at(size).value,
    ).threshold  # fmt: skip


def among_themselves(bank: SubmodelBank, val: Features, fpir: float) -> Threshold:
    """The threshold that lets at most `fpir` of the validation probes be taken for somebody else,
    their own class left out: what each class is to all the others. Heads have learnt to keep these
    classes apart, so the higher of weight's and centre's cosine is taken. Of fewer probes than
    tell that rate, the least rate that they tell."""
    x, blocks = unit(val.x), []
    for start in range(0, len(x), BLOCK):
        part = slice(start, start + BLOCK)
        highest = np.full(len(x[part]), -1.0, np.float32)
        for rows in (bank.weights, bank.centres):
            if rows is None:
                continue
            classes, cosine = score.topk(x[part], rows, min(2, len(bank)), ids=bank.ids)
            others = np.where(classes == val.y[part, None], -1.0, cosine).max(axis=1)
            highest = np.maximum(highest, others)
        blocks.append(highest)
    similarities = np.concatenate(blocks).astype(np.float32)
    found = calibrate(similarities, max(fpir, 1.0 / len(similarities)), len(bank))
    return Threshold(found.value, found.origin.replace("calibrated", "model"))


def limit(
    bank: SubmodelBank, centres: NDArray[np.float32], val: Features, args: argparse.Namespace
) -> Threshold:
    """The bank's threshold: of strangers where they are given, else by the impostor model of the
    embedder, else of the classes among themselves, said on stderr."""
    if args.unknown:
        similarities = bank.classify(unit(load_features(args.unknown).x))[1]
        return calibrate(similarities, args.fpir, len(bank))
    found = modelled(centres, bank.embedder, args.fpir)
    if found is None:
        found = among_themselves(bank, val, args.fpir)
        print(
            "heads: no strangers were given and there is no impostor model of that embedder: the "
            "threshold is of the classes among themselves, which are fewer and may be more alike "
            "than strangers",
            file=sys.stderr,
        )
    return found


def _run(args: argparse.Namespace) -> int:
    prepared = load_prepared(args.features)
    if prepared is None:
        train, val = split(load_features(args.features), args.val, args.seed)
    else:
        train, val = prepared.train, prepared.val
    centres = centres_of(train.x, train.y, len(train.names))
    submodel = partition(centres, args.submodels, method=args.partition, seed=args.seed)
    settings = HeadSettings(epochs=args.epochs, seed=args.seed)
    weights = train_heads(train, val, submodel, settings=settings, ray=args.ray)
    rules, accuracies = tune_rules(weights, centres, val)
    # max takes the first of equals: the simplest rule.
    rule = rules[max(rules, key=accuracies.__getitem__) if args.rule == "best" else args.rule]
    digest = args.embedder
    if Path(digest).is_file():
        digest = hashlib.sha256(Path(digest).read_bytes()).hexdigest()
    bank = SubmodelBank.pack(
        weights, centres, submodel, names=train.names, rule=rule, embedder=digest
    )
    bank = bank.with_threshold(limit(bank, centres, val, args))
    bank.save(args.out)
    report: dict[str, object] = {
        "bank": str(args.out), "classes": len(bank), "submodels": bank.submodels,
        "rule": bank.rule.kind, "tau": bank.rule.tau, "gamma": bank.rule.gamma,
        "threshold": bank.rule.threshold, "threshold_origin": bank.rule.origin,
        "validation_accuracy": accuracies,
    }  # fmt: skip
    if prepared is not None:
        answers, similarity = bank.classify(unit(prepared.test.x))
        named = (answers == prepared.test.y) & (similarity >= (bank.rule.threshold or -1.0))
        report["test"] = asdict(closed_set(prepared.test.y, answers)) | {
            "named": float(named.mean())
        }
    report["files"] = export(bank, unit(val.x), args.onnx, args.openvino)
    print(json.dumps(report))
    return 0
