"""`python -m export recognisability`: which faces can be recognised, fitted to one embedder.

Pictures of training people are spoilt in every way and strength (`export.flaws`), measured by the
detector's closer look, aligned and embedded as any other. A face counts as recognisable when it
resembles its owner, enrolled from two other pictures, as much as the card's threshold asks, and
none of 300 strangers whose pictures were spoilt about as much in the same way. Held-out people
judge, and say where the floors lie (`recognisability_floor`). Two minutes of one core for an
embedder.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from edgeface.alignment import SIZE, TEMPLATE, align
from edgeface.cluster.neighbours import cells_of
from edgeface.detect import Detector
from edgeface.embed import DEFAULT, Embedder
from edgeface.errors import EdgefaceError
from edgeface.recognisability import ENROLLED, Recogniser
from edgeface.thresholds import expected
from edgeface.types import Array, Face, Flaw
from export.data import Pack, hold_out, open_pack
from export.flaws import SPOILS, Image, Rng, mild, nothing
from export.recognisability_floor import eased

PEOPLE, HELD = 1000, 350  # who are fitted to, who judge
LEAST = 20  # to fit to
ENROLMENT = 2  # pictures a person is enrolled from
SHARE = 0.65  # of the flaws each picture is spoilt with
BOTH = 0.15  # of spoilt pictures that have a second flaw
STRANGERS = 300  # spoilt alike, of whom none may be taken for a face's owner
AWAY = 30.0  # degrees from which a picture that was not spoilt is one of a turned head
MARGIN = SIZE // 2  # px of border around a crop, for the detector's patch
BOX = np.array([17.0, 12.0, 95.0, 112.0])  # where the detector's box lies on an aligned crop
HIDDEN, ROUNDS, RATE = 16, 40, 1e-2
DECAY = 1.0
# Places among those where faces go whose owner is not found, beside the mean of every flaw. With
# 0, 16, 32 and 64 of them the log loss on held-out people was .269, .258, .259 and .259, the area
# under the ROC curve .941, .947, .945 and .946 (by the embedding's length alone .291 and .931).
PLACES = 16


@dataclass(frozen=True, slots=True, eq=False)
class Probes:
    """Spoilt faces: `crops` (n, 112, 112, 3), `rows` (n, d) and `lengths` (n,) of their embeddings,
    the `person` (n,) they show, -1 for nobody, the `kind` (n,) of flaw, an index of `KINDS`, its
    `strength` (n,), the cosine to the `owner` (n,), -1 for nobody's, and the degrees `away` (n,) by
    which the head is turned, the larger of yaw and pitch."""

    crops: Image
    rows: Array
    lengths: Array
    person: NDArray[np.int64]
    kind: NDArray[np.int64]
    strength: Array
    owner: Array
    away: Array

    def flaws(self) -> list[Flaw | None]:
        """What is wrong with each: how it was spoilt; a fit picture of a turned head is that."""
        return [
            Flaw.TURNED_AWAY if kind == FIT and away > AWAY else _FLAW_OF[kind]
            for kind, away in zip(self.kind, self.away, strict=True)
        ]

    def strangers(self) -> Array:
        """(n,) the largest cosine to `STRANGERS` others spoilt in the same way by as much."""
        best = np.full(len(self.rows), -1.0, np.float32)
        for kind in range(len(KINDS)):
            order = np.flatnonzero(self.kind == kind)
            order = order[np.argsort(self.strength[order], kind="stable")]
            similar = self.rows[order] @ self.rows[order].T
            for place, row in enumerate(order):
                low = max(0, min(place - STRANGERS // 2, len(order) - STRANGERS - 1))
                near = np.arange(low, min(low + STRANGERS + 1, len(order)))
                person = self.person[order[near]]
                other = (near != place) & ((person != self.person[row]) | (person < 0))
                best[row] = similar[place, near[other]].max(initial=-1.0)
        return best

    def found(self, threshold: float) -> NDArray[np.bool_]:
        """(n,) whether the owner is found at a threshold, and no stranger."""
        return (self.owner >= threshold) & (self.strangers() < threshold)


FIT, NOBODY = 0, len(SPOILS) + 1
KINDS = ("fit", *(spoil.__name__ for spoil in SPOILS), "nobody")
_FLAW_OF = (None, *SPOILS.values(), Flaw.NO_SURE_FACE)
LOOKS = (*dict.fromkeys(flaw for flaw in _FLAW_OF if flaw is not None), Flaw.TURNED_AWAY)


def closer(detector: Detector, crop: Image, rng: Rng) -> tuple[Image, Face]:
    """A picture around an aligned crop, and its face as the detector's closer look sees it after a
    first look of the usual error."""
    border = (MARGIN, MARGIN, MARGIN, MARGIN)
    picture = np.asarray(cv2.copyMakeBorder(crop, *border, cv2.BORDER_REPLICATE), np.uint8)
    points = TEMPLATE + MARGIN + rng.normal(0, 1.5, 2) + rng.normal(0, 1, (5, 2))
    middle, half = (BOX[:2] + BOX[2:]) / 2, (BOX[2:] - BOX[:2]) / 2 * np.exp(rng.normal(0, 0.07))
    middle = middle + MARGIN + rng.normal(0, 2, 2)
    box = np.concatenate([middle - half, middle + half])
    seen = Face(box.astype(np.float32), points.astype(np.float32), 0.9)
    return picture, detector.refine(picture, seen)


def people_of(data: Pack, rows: NDArray[np.bool_], most: int, rng: Rng) -> list[list[int]]:
    """Pictures of people who have enough: `ENROLMENT` to enrol, then the one to spoil."""
    pictures: dict[int, list[int]] = {}
    for row in rng.permutation(np.flatnonzero(rows & (data.identity >= 0))).tolist():
        pictures.setdefault(int(data.identity[row]), []).append(row)
    several = [v[: ENROLMENT + 1] for v in pictures.values() if len(v) > ENROLMENT]
    return [several[i] for i in rng.permutation(len(several))[:most]]


def gather(
    data: Pack,
    people: list[list[int]],
    backgrounds: list[Path],
    detector: Detector,
    embedder: Embedder,
    rng: Rng,
) -> Probes:
    """Spoil, look at and embed a picture of each of `people`, and half as many of nobody."""
    crops: list[Image] = []
    facts: list[tuple[int, int, float, float]] = []

    def see(spoilt: Image, person: int, kind: int, strength: float) -> None:
        picture, face = closer(detector, spoilt, rng)
        pose = face.pose
        away = 0.0 if pose is None else max(abs(pose.yaw), abs(pose.pitch))
        crops.append(align(picture, [face])[0])
        facts.append((person, kind, strength, away))

    owners = np.empty((len(people), embedder.size), np.float32)
    for person, rows in enumerate(people):
        enrolled = embedder(np.asarray(data.images[sorted(rows[:ENROLMENT])])).sum(axis=0)
        owners[person] = enrolled / np.linalg.norm(enrolled)
        clean = np.asarray(data.images[rows[ENROLMENT]])
        for kind, spoil in enumerate((mild, *SPOILS)):
            if kind != FIT and rng.random() > SHARE:
                continue
            strength = float(rng.random())
            spoilt = spoil(clean, strength, rng)
            if kind != FIT and rng.random() < BOTH:
                spoilt = list(SPOILS)[rng.integers(len(SPOILS))](spoilt, rng.random() / 2, rng)
            see(spoilt, person, kind, strength)
    for _ in range(len(people) // 2 if backgrounds else 0):
        picture = cv2.imread(str(backgrounds[rng.integers(len(backgrounds))]))
        if picture is not None and min(picture.shape[:2]) > 24:
            see(nothing(np.asarray(picture, np.uint8), rng), -1, NOBODY, 0.0)
    whose, kinds = (np.array([fact[i] for fact in facts], np.int64) for i in (0, 1))
    strengths, turned = (np.array([fact[i] for fact in facts], np.float32) for i in (2, 3))
    seen, lengths = embedder.measure(np.stack(crops))
    owner = np.where(whose >= 0, np.einsum("nd,nd->n", seen, owners[whose]), -1.0)
    return Probes(np.stack(crops), seen, lengths, whose, kinds, strengths, owner, turned)


def centres_of(probes: Probes, found: NDArray[np.bool_]) -> Array:
    """Unit rows: where each kind of hopeless faces goes, where the fit ones lie, and the places of
    those whose owner is not `found`."""
    means = []
    for kind in range(len(KINDS)):
        hopeless = (probes.strength > 0.5) | (kind in {FIT, NOBODY})
        some = probes.rows[(probes.kind == kind) & hopeless]
        if len(some):
            means.append(some.mean(axis=0))
    lost = probes.rows[~found]
    centres = np.concatenate([np.stack(means), cells_of(lost, count=min(PLACES, len(lost)))])
    return np.asarray(centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-9))


def fit(probes: Probes, threshold: float, seed: int) -> Recogniser:
    """Fit the two layers: the chance by its likelihood, the flaw of those who were not found by
    cross-entropy."""
    torch.manual_seed(seed)
    was_found = probes.found(threshold)
    centres = centres_of(probes, was_found)
    empty = np.empty((0, 0), np.float32)
    bare = Recogniser(centres, empty, empty, empty, empty, LOOKS)
    features = bare.features(probes.crops, probes.rows, probes.lengths)
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    x = torch.from_numpy((features - mean) / scale)
    found = torch.from_numpy(was_found.astype(np.float32))
    flaws = [-1 if flaw is None else LOOKS.index(flaw) for flaw in probes.flaws()]
    look = torch.tensor(flaws)
    look[found > 0] = -1
    first, second = torch.nn.Linear(x.shape[1], HIDDEN), torch.nn.Linear(HIDDEN, 1 + len(LOOKS))
    layers = torch.nn.Sequential(first, torch.nn.Tanh(), second)
    steps = ROUNDS * -(-len(x) // 512)
    optimizer = torch.optim.AdamW(
        [
            {"params": [first.weight, second.weight], "weight_decay": DECAY},
            {"params": [first.bias, second.bias], "weight_decay": 0.0},
        ],
        lr=RATE,
    )
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    for _ in range(ROUNDS):
        for some in torch.randperm(len(x)).split(512):
            out = layers(x[some])
            loss = torch.nn.functional.binary_cross_entropy_with_logits(out[:, 0], found[some])
            named = look[some] >= 0
            if named.any():
                told = torch.nn.functional.cross_entropy(out[named, 1:], look[some][named])
                loss = loss + 0.3 * told
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
    weights = [
        torch.cat([layer.weight.T, layer.bias[None]]).detach().numpy() for layer in (first, second)
    ]
    return replace(bare, mean=mean, scale=scale, first=weights[0], second=weights[1])


def judge(made: Recogniser, probes: Probes, threshold: float) -> dict[str, float]:
    """How well it orders and predicts: area under the ROC curve against the embedding's length
    alone, mean chance against how many were found, and, of fit pictures and of each flaw, how many
    would be enrolled; and how often those of different people with one flaw resemble each other."""
    answers = made.answers(made.features(probes.crops, probes.rows, probes.lengths))
    chance = 1 / (1 + np.exp(-answers[:, 0]))
    found = probes.found(threshold)
    line = {
        "probes": float(len(found)),
        "found": float(found.mean()),
        "expected": float(chance.mean()),
        "auc": area(chance.astype(np.float32), found),
        "auc_length_alone": area(probes.lengths, found),
    }
    for kind, name in enumerate(KINDS):
        some = np.flatnonzero((probes.kind == kind) & (chance >= ENROLLED))
        line[f"{name}.enrolled"] = len(some) / max(1, int((probes.kind == kind).sum()))
        similar = probes.rows[some] @ probes.rows[some].T
        pairs = similar[np.triu_indices(len(some), 1)]
        line[f"{name}.alike"] = float((pairs >= threshold).mean()) if len(pairs) else 0.0
    flaws = np.array(probes.flaws(), dtype=object)
    unfit = (chance < ENROLLED) & np.array([flaw is not None for flaw in flaws])
    wanted = flaws[unfit]
    told = np.array(LOOKS)[answers[unfit, 1:].argmax(axis=1)]
    line["flaw_named"] = float((wanted == told).mean()) if unfit.any() else 0.0
    return {name: round(value, 4) for name, value in line.items()}


def area(value: Array, true: NDArray[np.bool_]) -> float:
    """Under the ROC curve."""
    rank = np.empty(len(value))
    rank[np.argsort(value, kind="stable")] = np.arange(1, len(value) + 1)
    n = int(true.sum())
    other = len(true) - n
    return float((rank[true].sum() - n * (n + 1) / 2) / max(n * other, 1))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export recognisability", description=__doc__)
    parser.add_argument("models", nargs="*", default=[DEFAULT], help="embedders, by name or file")
    parser.add_argument("--pack", type=Path, required=True, help="of labelled training people")
    parser.add_argument("--backgrounds", type=Path, help="folder of pictures without faces")
    parser.add_argument("--people", type=int, default=PEOPLE, help="who are fitted to")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    data, detector = open_pack(args.pack), Detector.load(threads=1)
    backgrounds = sorted(args.backgrounds.iterdir()) if args.backgrounds else []
    held = hold_out(data)
    for model in args.models:
        rng = np.random.default_rng(args.seed)
        embedder = Embedder.load(model, threads=1)
        threshold = embedder.card.threshold.value
        sets = [
            people_of(data, data.keep & rows, most, rng)
            for rows, most in ((~held, args.people), (held, HELD))
        ]
        if len(sets[0]) < LEAST or not sets[1]:
            raise EdgefaceError(
                f"{args.pack} has {len(sets[0])} people to fit to and {len(sets[1])} held out with "
                f"{ENROLMENT + 1} pictures and more; {LEAST} and one are needed"
            )
        probes, judges = (
            gather(data, people, backgrounds, detector, embedder, rng) for people in sets
        )
        made = fit(probes, threshold, args.seed)
        made, moved = eased(
            made,
            made.features(judges.crops, judges.rows, judges.lengths),
            judges.rows,
            judges.kind,
            lambda size, card=embedder.card: expected(card, size).value,  # type: ignore[misc]
        )
        file = made.save(embedder.card.path, embedder.card.digest)
        line = {"file": file.name, "moved": round(moved, 2), **judge(made, judges, threshold)}
        print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
