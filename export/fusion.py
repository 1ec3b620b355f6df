"""`python -m export fusion`: how the faces of one track become one template.

Describes simulated clips of the packed training pictures with an embedder (once, kept in a cache),
fits the closed forms, trains the cluster-and-aggregate network, and measures all of them on people
of whom neither has seen anything. The network is written beside the embedder, as
`MODEL.update.onnx` and `MODEL.readout.onnx`, and named in its card, only where it is better than
the best closed form by more than chance; else the card is left to the closed form.

The network is that of CAFace (Kim et al., NeurIPS 2022) with these changes: the state is made of
sums, so that any order and any chunking give one template; every frame is seen alone; tokens come
from the embedding and the quality of a face; the read-out knows the mass and the agreement of every
centre; what it reads out is the start of one power iteration, in training too. `--ablation` trains
it on CAFace's own tokens as well (styles of two inner stages and the norm of the embedding).
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import hashlib
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

from bench.fusion import interval
from edgeface.embed import DEFAULT
from edgeface.metrics import Interval, tar_at_far
from edgeface.models import load_card
from export.clips import Describer, Features, describe, others
from export.data import Pack, open_pack

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Sets = tuple[Rows, Rows, Rows]  # frames (s, n), the good picture's row (s,), the person (s,)

PICTURES, CLIPS, FRAMES = 6, 2, 4  # of each person, of each picture, of each clip
CENTRES, WIDTH, BATCH = 4, 64, 128
FAR, FITTED = 1e-3, 500
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

    def rich(self, frames: int) -> Rows:
        """Those of the people who have so many frames whichever picture is the good one."""
        each = CLIPS * FRAMES
        need = -(-frames // each) + 1
        return np.array([p for p in self.people if len(self._rows[int(p)]) >= need * (each + 1)])

    def sets(self, n: int, share: float, *, seed: int, each: int = 1) -> Sets:
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
SHIPPED = Closed(quality=1.0, steps=1)  # `edgeface.aggregate.Weighted`


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
    `COLUMNS` on some of the training people."""
    some = Crowd(crowd.features, crowd.people[:: max(1, len(crowd.people) // FITTED)])
    drawn = [some.sets(n, share, seed=3, each=2) for n, share in COLUMNS]
    found: list[tuple[float, Closed]] = []
    grid = itertools.product((0.0, 0.5, 1.0), (0.0, 0.5, 1.0), (0.0, 0.5))
    readings = [(1.0, 0), *itertools.product((0.0, 0.5, 1.0), (1, 2, 4))]
    for weighting in grid:
        for reading in readings:
            form = Closed(*weighting, *reading)
            found.append((np.mean([v["tar"] for v in measure(some, scale, form, drawn)]), form))
    robust = max(found, key=lambda x: x[0])
    plain = max((x for x in found if x[1].steps == 0), key=lambda x: x[0])
    for value, form in sorted(found, key=lambda x: -x[0])[:6]:
        print(f"fusion: {value:.2f} {form}", file=sys.stderr)
    return robust[1], plain[1]


def measure(crowd: Crowd, scale: Scale, form: Closed, drawn: list[Sets]) -> list[dict[str, float]]:
    """`score` of a closed form for each list of sets."""
    f, weights = crowd.features, scale.weights(crowd.features, form)
    return [
        score(fuse(f.embedding[rows], weights[rows], form), people, f.embedding[good])
        for rows, good, people in drawn
    ]


# The network


def looks(features: Features, names: tuple[str, ...]) -> Floats:
    """Columns (n, e) of `embedding`, `style` and `norm`, side by side, as z-scores of clips."""
    columns = {
        "embedding": features.embedding,
        "style": features.style,
        "norm": np.log(features.norm)[:, None],
    }
    whole = np.concatenate([columns[name] for name in names], axis=1)
    seen = whole[features.clip >= 0]
    return np.asarray((whole - seen.mean(axis=0)) / (seen.std(axis=0) + 1e-3), np.float32)


class Update(nn.Module):
    """What faces add to a state; see `edgeface.aggregate.Looks`."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.first = nn.Linear(looks + 2, WIDTH)
        self.token = nn.Sequential(
            nn.PReLU(), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU()
        )
        anchors = torch.empty(CENTRES, WIDTH)
        nn.init.orthogonal_(anchors)
        self.anchors = nn.Parameter(anchors * WIDTH**0.5)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.weight = nn.Linear(WIDTH, 1)
        nn.init.zeros_(self.weight.weight)
        nn.init.zeros_(self.weight.bias)

    def forward(self, looks: Tensor, quality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Shares (..., m), tokens (..., w) and weights (..., 1) of faces with `looks` (..., e) and
        `quality` (..., 1)."""
        floored = (quality + FLOOR).log()
        x = self.token(self.first(torch.cat([looks, quality, floored], -1)))
        weight = (self.weight(x) + floored).exp()
        share = (self.key(x) @ self.anchors.T / WIDTH**0.5).softmax(-1)
        return share * weight, x, weight


class Readout(nn.Module):
    """The first estimate of a template: per channel a convex combination of the centres' means."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.anchors = nn.Parameter(torch.randn(CENTRES, WIDTH) * 0.1)
        self.mix = nn.Sequential(nn.Linear(2 * WIDTH + 2, 2 * WIDTH), nn.GELU())
        self.channels = nn.Linear(4 * WIDTH, size)
        nn.init.zeros_(self.channels.weight)
        nn.init.zeros_(self.channels.bias)

    def forward(self, total: Tensor, mass: Tensor, tokens: Tensor) -> Tensor:
        """Unit rows (b, d) of states with sums (b, m, d), (b, m), (b, m, w)."""
        mass = mass[..., None]
        mean = total / (mass + 1e-12)
        agreement = mean.square().sum(-1, keepdim=True).sqrt()
        anchors = self.anchors.expand(len(mass), -1, -1)
        about = [anchors, tokens / (mass + 1e-12), agreement, (mass + 1.0).log()]
        h = self.mix(torch.cat(about, -1))
        h = torch.cat([h, h.mean(1, keepdim=True).expand_as(h)], -1)
        share = (self.channels(h) + (mass + 1e-12).log()).softmax(1)
        return (share * mean).sum(1)


class Fusion(nn.Module):
    """Both networks, for sets of one size. `columns` are the `looks` it goes by."""

    def __init__(self, size: int, columns: Floats) -> None:
        super().__init__()
        self.columns = columns
        self.update, self.readout = Update(columns.shape[1]), Readout(size)

    def forward(self, features: Features, rows: Rows) -> Tensor:
        """Templates (s, d) of sets of rows (s, n)."""
        values = torch.from_numpy(features.embedding[rows])
        quality = torch.from_numpy(features.quality[rows][..., None])
        share, token, weight = self.update(torch.from_numpy(self.columns[rows]), quality)
        total = torch.einsum("snm,snd->smd", share, values)
        tokens = torch.einsum("snm,snw->smw", share, token)
        mean = self.readout(total, share.sum(1), tokens)
        cosine = torch.einsum("snd,sd->sn", values, nn.functional.normalize(mean, dim=-1))
        agreed = torch.einsum("sn,snd->sd", weight[..., 0] * cosine, values)
        return nn.functional.normalize(agreed, dim=-1)


def train(crowd: Crowd, columns: Floats, iterations: int, seed: int = 0) -> Fusion:
    """A network that tells people apart: each fused set among the good pictures of its batch
    (softmax over cosines), plus the distance to its own."""
    torch.manual_seed(seed)
    rng, f = np.random.default_rng(seed), crowd.features
    network = Fusion(f.embedding.shape[1], columns)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=iterations)
    rich = crowd.rich(16)
    for iteration in range(iterations):
        n, share = int(rng.choice([2, 4, 8, 16])), float(rng.choice([0.0, 0.0, 0.1, 0.3]))
        people = crowd.people if n <= 8 else rich
        chosen = rng.choice(people, min(BATCH, len(people)), replace=False)
        drawn = [crowd.one(int(p), n, share, rng) for p in chosen]
        kept = [(frames, good) for frames, good in drawn if len(frames) == n]
        fused = network(f, np.stack([frames for frames, _ in kept]))
        cosine = fused @ torch.from_numpy(f.embedding[[g for _, g in kept]]).T
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


# What is measured and what ships


def gain(one: list[Floats], other: list[Floats], sets: list[Sets], good: Floats) -> Interval:
    """Mean TAR over `COLUMNS` of templates less that of others, percent, with its 95 % interval
    (paired bootstrap over people)."""
    everybody, first = np.unique(np.concatenate([s[2] for s in sets]), return_index=True)
    gallery = good[np.concatenate([s[1] for s in sets])[first]]
    people = [np.searchsorted(everybody, who) for _, _, who in sets]
    ways = [[templates @ gallery.T for templates in way] for way in (one, other)]
    tars = [
        np.mean(
            [
                tar_at_far(values.ravel(), (who[:, None] == np.arange(len(gallery))).ravel(), FAR)
                for values, who in zip(way, people, strict=True)
            ]
        )
        for way in ways
    ]
    low, high = interval(*ways, people, len(gallery))
    return Interval(100 * float(tars[0] - tars[1]), low, high)


@torch.no_grad()
def fused_by(network: Fusion, features: Features, sets: list[Sets]) -> list[Floats]:
    """Templates of each list of sets."""
    return [network(features, rows).numpy() for rows, _, _ in sets]


def report(name: str, fused: list[Floats], sets: list[Sets], good: Floats) -> dict[str, float]:
    """Print and return TAR and rank-1 of every column of `COLUMNS`."""
    values = [
        score(t, people, good[clean]) for t, (_, clean, people) in zip(fused, sets, strict=True)
    ]
    cells = " ".join(f"{v['tar']:5.1f} {v['rank1']:5.1f} |" for v in values)
    mean = float(np.mean([v["tar"] for v in values]))
    print(f"fusion: {name:34s} {mean:6.2f} | {cells}", file=sys.stderr, flush=True)
    return {"tar": mean}


def to_onnx(network: Fusion, stem: Path, columns: Floats, features: Features) -> dict[str, object]:
    """Write both graphs; what the card says of them. The update takes plain embeddings: their
    z-scores are folded into its first layer."""
    seen = features.embedding[features.clip >= 0]
    shift, spread = seen.mean(axis=0), seen.std(axis=0) + 1e-3
    update, size = copy.deepcopy(network.update), features.embedding.shape[1]
    with torch.no_grad():
        weight = update.first.weight
        scaled = weight[:, :size] / torch.from_numpy(spread)
        update.first.bias -= scaled @ torch.from_numpy(shift)
        weight[:, :size] = scaled
    some = slice(0, 3)
    torch.onnx.export(
        _Flat(update),
        (torch.from_numpy(features.embedding[some]), torch.from_numpy(features.quality[some])),
        str(stem.with_suffix(".update.onnx")),
        input_names=["embedding", "quality"],
        output_names=["share", "token", "weight"],
        dynamic_shapes=({0: "n"}, {0: "n"}),
        external_data=False,
        verbose=False,
    )
    sums = (torch.rand(1, CENTRES, size), torch.rand(1, CENTRES), torch.rand(1, CENTRES, WIDTH))
    torch.onnx.export(
        network.readout,
        sums,
        str(stem.with_suffix(".readout.onnx")),
        input_names=["total", "mass", "tokens"],
        output_names=["template"],
        external_data=False,
        verbose=False,
    )
    parts: dict[str, object] = {"centres": CENTRES, "width": WIDTH}
    for part in ("update", "readout"):
        file = stem.with_suffix(f".{part}.onnx")
        parts[part] = {
            "file": file.name,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
    return parts


class _Flat(nn.Module):
    """The update over plain (n,) qualities."""

    def __init__(self, update: Update) -> None:
        super().__init__()
        self.update = update

    def forward(self, embedding: Tensor, quality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shares, tokens, weights = self.update(embedding, quality[:, None])
        return shares, tokens, weights


def features_of(pack: Path, cache: Path | None, model: Path, digest: str) -> Features:
    """What a cache of this model holds, or the clips of a pack described anew, and kept there."""
    file = cache and cache.with_name(f"{cache.stem}-{digest[:8]}.npz")
    if file and file.exists():
        return Features.load(file)
    data = open_pack(pack)
    rows = choose(data)
    cv2.setNumThreads(1)
    found = describe(
        Describer(model), data.images[rows], data.identity[rows], clips=CLIPS, frames=FRAMES
    )
    if file:
        found.save(file)
    return found


def compare(features: Features, args: argparse.Namespace) -> tuple[Fusion, dict[str, object]]:
    """Fit, train and measure everything; the network, and what the card may say of it."""
    people = np.unique(features.person)
    out = held_out(people)
    training, validation = Crowd(features, people[~out]), Crowd(features, people[out])
    scale, good = Scale.of(features), features.embedding
    sets = [validation.sets(n, share, seed=5, each=3) for n, share in COLUMNS]
    print("fusion: TAR@FAR=1e-3 and rank-1, columns", COLUMNS, file=sys.stderr)
    robust, plain = fit(training, scale)
    forms = {"average": Closed(), "quality": Closed(1.0), "norm": Closed(0.0, 1.0)}
    forms |= {"recognisability": Closed(0.0, 0.0, 0.5), "shipped closed form": SHIPPED}
    forms |= {"best mean": plain, "best closed form": robust}
    fused = {}
    for name, form in forms.items():
        weights = scale.weights(features, form)
        fused[name] = [fuse(good[rows], weights[rows], form) for rows, _, _ in sets]
        report(name, fused[name], sets, good)
    tokens = [("embedding",)]
    if args.ablation:
        tokens += [("norm",), ("style",), ("style", "norm"), ("embedding", "norm")]
        tokens += [("embedding", "style", "norm")]
    networks = {}
    for names in tokens:
        networks[names] = train(training, looks(features, names), args.iterations)
        name = "learned, " + " + ".join(names)
        fused[name] = fused_by(networks[names], features, sets)
        report(name, fused[name], sets, good)
    learned = fused["learned, embedding"]
    better = {
        "best closed form": gain(learned, fused["best closed form"], sets, good),
        "average": gain(learned, fused["average"], sets, good),
    }
    for name, value in better.items():
        print(f"fusion: learned less {name}: {value}", file=sys.stderr)
    about: dict[str, object] = {
        "people": len(training.people) + len(training.strangers),
        "held_out_people": len(np.unique(np.concatenate([s[2] for s in sets]))),
        "gain_over_best_closed_form": dataclasses.asdict(better["best closed form"]),
        "gain_over_average": dataclasses.asdict(better["average"]),
        "best_closed_form": dataclasses.asdict(robust),
        "measured": "mean TAR at FAR 1e-3, percent, sets of 4 and 8 degraded frames against one "
        "good picture, 0, 10 and 30 % of another person's, held-out people",
    }
    return networks[("embedding",)], about


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export fusion", description=__doc__)
    parser.add_argument("--pack", type=Path, required=True, help="crops packed by `export pack`")
    parser.add_argument("--model", default=DEFAULT, help="name or file of the embedder")
    parser.add_argument("--cache", type=Path, help="keep the described clips beside this .npz")
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("--ablation", action="store_true", help="train on other tokens too")
    args = parser.parse_args(argv)
    card = load_card(args.model, "embedding")
    features = features_of(args.pack, args.cache, card.path, card.digest)
    network, about = compare(features, args)
    lead = about["gain_over_best_closed_form"]
    assert isinstance(lead, dict)
    raw = dict(card.raw)
    raw.pop("fusion", None)
    if lead["low"] > 0:
        raw["fusion"] = to_onnx(network, card.path, network.columns, features) | about
        print("fusion: the network ships", file=sys.stderr)
    else:
        print("fusion: the closed form ships", file=sys.stderr)
    file = card.path.with_suffix(".json")
    file.write_text(json.dumps(raw, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(about))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
