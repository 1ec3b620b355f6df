"""Sets of a person's frames to be fused, what is expected of their templates, and the closed forms
by which they may be fused."""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import DataError
from edgeface.metrics import tar_at_far
from export.data import Pack
from export.protocols.clips import Features, others

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Sets = tuple[Rows, Rows, Rows]  # frames (s, n), the good picture's row (s,), the person (s,)

PICTURES = 6  # of each person
FAR, FITTED = 1e-3, 500
COLUMNS = ((4, 0.0), (8, 0.0), (8, 0.1), (8, 0.3))  # frames and share of another person's


def choose(data: Pack, people: int | None = None, most: int = PICTURES) -> Rows:
    """Rows of the people with two pictures or more, at most `most` of each; of `people` of them,
    those with the most pictures, or of all."""
    rows = np.flatnonzero(data.keep & (data.identity >= 0))
    rng = np.random.default_rng(0)
    person, count = np.unique(data.identity[rows], return_counts=True)
    order = np.argsort(-np.minimum(count, most), kind="stable")[:people]
    kept = [
        np.sort(rng.permutation(rows[data.identity[rows] == person[i]])[:most])
        for i in np.sort(order)
        if count[i] >= 2
    ]
    return np.concatenate(kept)


def held_out(person: Rows) -> NDArray[np.bool_]:
    """Every fifth person is kept for validation; among them are all whom `export.data.hold_out`
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
        good = np.unique(f.picture[own][f.clip[own] < 0])
        reference = rng.choice(good)
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
        f, found = self.features, []
        for person in self.people:
            own = self._rows[int(person)]
            clips, good = own[f.clip[own] >= 0], own[f.clip[own] < 0]
            same = (f.picture[clips] == f.picture[good][:, None]).sum(axis=1)
            if len(clips) - same.max() >= frames:
                found.append(int(person))
        return np.array(found, np.int64)

    def sets(self, n: int, share: float, *, seed: int, each: int = 1) -> Sets:
        """`each` sets of exactly `n` frames of everybody who has them: frames (s, n), good pictures
        (s,), people (s,)."""
        rng = np.random.default_rng(seed)
        found: list[tuple[Rows, int, int]] = []
        for person in self.people.tolist():
            for _ in range(each):
                frames, clean = self.one(person, n, share, rng)
                if len(frames) == n:
                    found.append((frames, clean, person))
        if not found:
            raise DataError(
                f"nobody has {n} frames beside a good picture: longer tracks are needed"
            )
        rows, good, who = zip(*found, strict=True)
        return np.stack(rows), np.array(good), np.array(who)


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
            found.append(
                (float(np.mean([v["tar"] for v in measure(some, scale, form, drawn)])), form)
            )
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
