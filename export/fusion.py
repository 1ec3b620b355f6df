"""`python -m export fusion`: how the faces of one track become one template.

Describes simulated clips of the packed training pictures with an embedder (once, kept in a cache),
fits the closed forms, trains the cluster-and-aggregate network, measures all of them on people of
whom neither has seen anything, and writes what the best closed form needs beside the embedder. The
network is written (`MODEL.update.onnx`, `MODEL.readout.onnx`) only where it is better.

The network is that of CAFace (Kim et al., NeurIPS 2022) with these changes: the state is made of
sums, so that any order and any chunking give one template; every frame is seen alone; the norm code
is continuous; the read-out knows the mass and the agreement of every centre.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface.metrics import tar_at_far
from edgeface.models import load_card
from export.clips import Describer, Features, describe, others
from export.data import Pack, open_pack

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

PICTURES, CLIPS, FRAMES = 6, 2, 4  # of each person, of each picture, of each clip
CENTRES, WIDTH = 4, 64
FAR = 1e-3
COLUMNS = ((4, 0.0), (8, 0.0), (8, 0.1), (8, 0.3))  # frames and share of another person's


def choose(data: Pack, most: int = PICTURES) -> Rows:
    """Rows of the people with two pictures or more, at most `most` of each."""
    rows = np.flatnonzero(data.keep & (data.identity >= 0))
    rng = np.random.default_rng(0)
    kept = []
    for person in np.unique(data.identity[rows]):
        own = rows[data.identity[rows] == person]
        if len(own) >= 2:
            kept.append(np.sort(rng.permutation(own)[:most]))
    return np.concatenate(kept)


def held_out(person: Rows) -> NDArray[np.bool_]:
    """Every fifth person is kept for validation; among them are all whom `export.training.hold_out`
    keeps from the embedder."""
    return person % 5 == 0


class Crowd:
    """Draws sets of frames of people, and the good picture each is to be found by."""

    def __init__(self, features: Features, people: Rows) -> None:
        self.features = features
        # Whose frames get into the sets of others: nobody whom a set could be taken for.
        away = np.arange(len(people)) % 5 == 4
        self.people, self.strangers = people[~away], people[away]
        order = np.argsort(features.person, kind="stable")
        starts = np.searchsorted(features.person[order], people)
        ends = np.searchsorted(features.person[order], people, side="right")
        self._rows = {int(p): order[a:b] for p, a, b in zip(people, starts, ends, strict=True)}

    def one(self, person: int, n: int, share: float, rng: np.random.Generator) -> tuple[Rows, int]:
        """`n` frames of clips of one person, `share` of them another's, and the undegraded row of a
        picture that none of the clips was made of. Fewer than `n` where there are not so many."""
        f, own = self.features, self._rows[person]
        sources = np.unique(f.picture[own])
        reference = rng.choice(sources)
        clean = own[(f.picture[own] == reference) & (f.clip[own] < 0)]
        frames = own[(f.picture[own] != reference) & (f.clip[own] >= 0)]
        frames = rng.permutation(frames)[:n]
        wrong = others(len(frames), share)
        if wrong:
            theirs = self._rows[int(rng.choice(self.strangers))]
            theirs = theirs[f.clip[theirs] >= 0]
            frames[:wrong] = rng.choice(theirs, wrong, replace=len(theirs) < wrong)
        return frames, int(clean[0])

    def sets(self, n: int, share: float, *, seed: int, each: int = 1) -> tuple[Rows, Rows, Rows]:
        """`each` sets of exactly `n` frames of everybody who has them: frames (s, n), good pictures
        (s,), people (s,)."""
        rng, found = np.random.default_rng(seed), []
        for person in self.people.tolist():
            for _ in range(each):
                frames, clean = self.one(person, n, share, rng)
                if len(frames) == n:
                    found.append((frames, clean, person))
        frames, clean, who = zip(*found, strict=True)
        return np.stack(frames), np.array(clean), np.array(who)


def score(fused: Floats, people: Rows, good: Floats) -> dict[str, float]:
    """TAR at FAR 1e-3 and rank-1, percent, of templates (s, d) of `people` (s,) against one good
    picture of each person, the first of `good` (s, d)."""
    who, first = np.unique(people, return_index=True)
    similarities = fused @ good[first].T
    same = people[:, None] == who[None]
    return {
        "tar": 100 * tar_at_far(similarities.ravel(), same.ravel(), FAR),
        "rank1": 100 * float((who[similarities.argmax(axis=1)] == people).mean()),
    }


# Closed forms


@dataclass(frozen=True, slots=True)
class Closed:
    """A face's weight in the mean is (quality + `FLOOR`)^`quality` · exp(`norm` · z(log norm)) ·
    exp(`recognisable` · z(1 - cos to the unrecognisable)); in the second moment it is that to the
    power `even`. `steps` power iterations lead from the mean to the template."""

    quality: float = 0.0
    norm: float = 0.0
    recognisable: float = 0.0
    even: float = 1.0
    steps: int = 0


FLOOR = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """What turns norms and recognisability into z-scores, and the direction of what cannot be
    recognised (Deng et al., arXiv 2106.04112)."""

    norm: tuple[float, float]
    recognisable: tuple[float, float]
    nobody: Floats

    @classmethod
    def of(cls, features: Features) -> Scale:
        """Measured on clips."""
        seen = features.clip >= 0
        worst = seen & (features.quality < np.quantile(features.quality[seen], 0.05))
        nobody = features.embedding[worst].mean(axis=0)
        nobody /= np.linalg.norm(nobody)
        logs = np.log(features.norm[seen])
        far = 1.0 - features.embedding[seen] @ nobody
        return cls(
            (float(logs.mean()), float(logs.std())),
            (float(far.mean()), float(far.std())),
            nobody.astype(np.float32),
        )

    def weights(self, features: Features, form: Closed) -> NDArray[np.float64]:
        """The weight of every row."""
        z = (np.log(features.norm) - self.norm[0]) / self.norm[1]
        r = 1.0 - features.embedding @ self.nobody
        r = (r - self.recognisable[0]) / self.recognisable[1]
        exponent = form.norm * np.clip(z, -3, 3) + form.recognisable * np.clip(r, -3, 3)
        return np.asarray((features.quality + FLOOR) ** form.quality * np.exp(exponent), np.float64)


def fuse(values: Floats, weights: NDArray[np.float64], form: Closed) -> Floats:
    """Templates (s, d) of sets (s, n, d): the weighted mean, then power iterations of the weighted
    second moment, as `edgeface.aggregate` reads its state."""
    rows = values.astype(np.float64)
    mean = _unit((rows * weights[..., None]).sum(axis=1))
    for _ in range(form.steps):
        cosine = (rows @ mean[..., None])[..., 0]
        mean = _unit((rows * (weights**form.even * cosine)[..., None]).sum(axis=1))
    return mean.astype(np.float32)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12))


def fit(crowd: Crowd, scale: Scale) -> tuple[Closed, Closed]:
    """The best closed form with power iterations and the best one without, by the mean TAR over
    `COLUMNS` on training people."""
    drawn = [crowd.sets(n, share, seed=3) for n, share in COLUMNS]
    found: list[tuple[float, Closed]] = []
    grid = itertools.product((0.0, 0.5, 1.0), (0.0, 0.5, 1.0), (0.0, 0.5))
    readings = [(1.0, 0), *itertools.product((0.0, 0.5, 1.0), (1, 2, 4))]
    for weighting in grid:
        for reading in readings:
            form = Closed(*weighting, *reading)
            found.append((np.mean([v["tar"] for v in measure(crowd, scale, form, drawn)]), form))
    robust = max(found, key=lambda x: x[0])
    plain = max((x for x in found if x[1].steps == 0), key=lambda x: x[0])
    for value, form in sorted(found, key=lambda x: -x[0])[:6]:
        print(f"fusion: {value:.2f} {form}", file=sys.stderr)
    return robust[1], plain[1]


def measure(
    crowd: Crowd, scale: Scale, form: Closed, drawn: list[tuple[Rows, Rows, Rows]]
) -> list[dict[str, float]]:
    """`score` of a closed form for each list of sets."""
    f, weights = crowd.features, scale.weights(crowd.features, form)
    return [
        score(fuse(f.embedding[rows], weights[rows], form), people, f.embedding[good])
        for rows, good, people in drawn
    ]


# The network


class Fusion(nn.Module):
    """CAFace with additive state. `style` values of a face's style are used, 0 for none."""

    def __init__(self, size: int, style: int) -> None:
        super().__init__()
        self.size, self.style_size = size, style
        self.register_buffer("shift", torch.zeros(style))
        self.register_buffer("spread", torch.ones(style))
        self.register_buffer("norm_scale", torch.tensor([0.0, 1.0]))
        self.register_buffer("rates", 0.5 * 2.0 ** torch.arange(4))
        self.from_style = nn.Sequential(nn.Linear(style, WIDTH), nn.PReLU()) if style else None
        self.from_code = nn.Linear(10, WIDTH)
        self.token = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU())
        anchors = torch.empty(CENTRES, WIDTH)
        nn.init.orthogonal_(anchors)
        self.anchors = nn.Parameter(anchors * WIDTH**0.5)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.weight = nn.Linear(WIDTH, 1)
        nn.init.zeros_(self.weight.weight)
        nn.init.zeros_(self.weight.bias)
        self.mix = nn.Sequential(nn.Linear(2 * WIDTH + 2, 2 * WIDTH), nn.GELU())
        self.channels = nn.Linear(4 * WIDTH, size)
        nn.init.zeros_(self.channels.weight)
        nn.init.zeros_(self.channels.bias)

    def update(
        self, values: Tensor, norm: Tensor, quality: Tensor, style: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What faces (b, n) add to a state: mass (b, m), values (b, m, d), tokens (b, m, w), second
        moment (b, d, d)."""
        z = ((norm.log() - self.norm_scale[0]) / self.norm_scale[1]).clamp(-3, 3)[..., None]
        q = quality[..., None]
        angles = z * self.rates
        code = torch.cat([angles.sin(), angles.cos(), q, (q + FLOOR).log()], -1)
        x = self.from_code(code)
        if self.from_style is not None:
            x = x + self.from_style((style - self.shift) / self.spread)
        x = self.token(x)
        share = (self.key(x) @ self.anchors.T / WIDTH**0.5).softmax(-1)
        weight = (self.weight(x) + (q + FLOOR).log()).exp()
        share = share * weight
        mass = share.sum(1)
        summed = torch.einsum("bnm,bnd->bmd", share, values)
        tokens = torch.einsum("bnm,bnw->bmw", share, x)
        moment = torch.einsum("bn,bnd,bne->bde", weight[..., 0], values, values)
        return mass, summed, tokens, moment

    def readout(
        self, mass: Tensor, summed: Tensor, tokens: Tensor, moment: Tensor, steps: int
    ) -> Tensor:
        """Templates (b, d): per channel a convex combination of the centres' means."""
        mean = summed / (mass[..., None] + 1e-9)
        agreement = mean.norm(dim=-1, keepdim=True)
        about = [self.anchors.expand(len(mass), -1, -1), tokens / (mass[..., None] + 1e-9)]
        h = self.mix(torch.cat([*about, agreement, mass.add(1).log()[..., None]], -1))
        h = torch.cat([h, h.mean(1, keepdim=True).expand_as(h)], -1)
        share = (self.channels(h) + (mass + 1e-9).log()[..., None]).softmax(1)
        out = nn.functional.normalize((share * mean).sum(1), dim=-1)
        for _ in range(steps):
            out = nn.functional.normalize(torch.einsum("bde,be->bd", moment, out), dim=-1)
        return out

    def forward(
        self, values: Tensor, norm: Tensor, quality: Tensor, style: Tensor, steps: int
    ) -> Tensor:
        return self.readout(*self.update(values, norm, quality, style), steps)


def gather(features: Features, rows: Rows, style: bool) -> tuple[Tensor, ...]:
    """The network's inputs for sets of rows (s, n)."""
    styles = features.style[rows] if style else np.zeros((*rows.shape, 0), np.float32)
    parts = (features.embedding[rows], features.norm[rows], features.quality[rows], styles)
    return tuple(torch.from_numpy(np.ascontiguousarray(p)) for p in parts)


def train(crowd: Crowd, scale: Scale, *, style: bool, steps: int, iterations: int) -> Fusion:
    """A network that tells people apart: each fused set among the good pictures of its batch
    (softmax over cosines), plus the distance to its own."""
    torch.manual_seed(0)
    rng, f = np.random.default_rng(7), crowd.features
    network = Fusion(f.embedding.shape[1], f.style.shape[1] if style else 0)
    if style:
        seen = f.clip >= 0
        network.shift.copy_(torch.from_numpy(f.style[seen].mean(axis=0)))
        network.spread.copy_(torch.from_numpy(f.style[seen].std(axis=0) + 1e-3))
    network.norm_scale.copy_(torch.tensor(scale.norm))
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=iterations)
    rich = np.array([p for p in crowd.people if len(crowd._rows[int(p)]) >= 27])
    for iteration in range(iterations):
        n, share = int(rng.choice([2, 4, 8, 16])), float(rng.choice([0.0, 0.0, 0.1, 0.3]))
        people = crowd.people if n <= 8 else rich
        drawn = [
            crowd.one(int(p), n, share, rng)
            for p in rng.choice(people, min(128, len(people)), replace=False)
        ]
        kept = [(frames, good) for frames, good in drawn if len(frames) == n]
        rows = np.stack([frames for frames, _ in kept])
        good = torch.from_numpy(f.embedding[[g for _, g in kept]])
        fused = network(*gather(f, rows, style), steps)
        cosine = fused @ good.T
        loss = nn.functional.cross_entropy(24.0 * cosine, torch.arange(len(kept)))
        loss = loss + (1.0 - cosine.diagonal()).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if iteration % 100 == 0:
            print(f"fusion: {iteration} loss {loss.item():.4f}", file=sys.stderr, flush=True)
    return network.eval()


@torch.no_grad()
def measure_network(
    network: Fusion, crowd: Crowd, steps: int, drawn: list[tuple[Rows, Rows, Rows]]
) -> list[dict[str, float]]:
    """`score` of a network for each list of sets."""
    f, style = crowd.features, network.style_size > 0
    return [
        score(network(*gather(f, rows, style), steps).numpy(), people, f.embedding[good])
        for rows, good, people in drawn
    ]


def report(values: list[dict[str, float]]) -> str:
    """TAR and rank-1 of every column of `COLUMNS`, and the mean TAR."""
    cells = " ".join(f"{v['tar']:5.1f}/{v['rank1']:5.1f}" for v in values)
    return f"{np.mean([v['tar'] for v in values]):6.2f} | {cells}"


def features_of(args: argparse.Namespace, model: Path) -> Features:
    """The cache, made first where there is none for this model."""
    data = open_pack(args.pack)
    rows = choose(data)
    cache = args.cache.with_suffix(".npz")
    if not cache.exists():
        cv2.setNumThreads(1)
        describer = Describer(model, threads=args.threads)
        found = describe(
            describer, data.images[rows], data.identity[rows], clips=CLIPS, frames=FRAMES
        )
        found.save(cache)
    return Features.load(cache)
