"""The sets submodel rules are judged on: real faces, and synthetic classes fitted to them.

`faces`: every identity of the shared crops with at least 10 images (LFW, Pins, CelebA; people of
two sets counted once), at most 30 images each; strangers are 2000 LFW people with one image. Pins'
training part and CelebA also trained the shipped embedder: `unseen` marks the classes of LFW and of
Pins' test part, which did not.

`synthetic` follows the two-covariance model (N. Bruemmer & E. de Villiers, The speaker partitioning
problem, Odyssey 2010) fitted to those embeddings: class centres ~ N(mean, between), images ~
N(centre, r^2 within), where the r of a class are drawn from the residual lengths of one real
person's images, so that there are good and bad pictures, and easy and hard people; all scaled to
unit length. `between` has no more directions than there are
real classes, so that many classes are closer together than as many real people would be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface import Embedder
from edgeface.errors import DataError
from edgeface.models import load_card
from edgeface.submodels import unit
from export.features import Features, centres_of, load_features, load_prepared, split
from export.protocols.pictures import stack

CACHE = Path(__file__).parents[1] / "runs" / "submodels"
MIN_IMAGES, MAX_IMAGES, UNKNOWNS = 10, 30, 2000
TEST, VAL = 5, 2  # images of each class
SAME_PERSON = 0.6  # cosine of two means beyond which two labels are one person
TRAIN = 8  # images of each synthetic class
PROBES = 10_000  # test images, and validation images, of a synthetic set at most
UNSEEN = ("lfw/", "pins/test/")


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """One division of a set. `unseen` (n,) are the classes that trained no embedder; of `strangers`
    (s, d) there may be none."""

    train: Features
    val: Features
    test: Features
    strangers: NDArray[np.float32]
    unseen: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """Embeddings of real people, and what the generator learned from them."""

    known: Features
    strangers: NDArray[np.float32]
    unseen: NDArray[np.bool_]
    embedder: str
    digest: str

    def draw(self, seed: int) -> Draw:
        rest, test = split(self.known, TEST, seed)
        train, val = split(rest, VAL, seed + 1000)
        return Draw(train, val, test, self.strangers, self.unseen)


def prepared(folder: Path, strangers: Path | None) -> Draw:
    """A set that was divided by whoever made it, see `export.features.load_prepared`.

    Raises:
        DataError: it has no folder train, see there for the rest.
    """
    found = load_prepared(folder)
    if found is None:
        raise DataError(f"{folder}: expected folders train, val and test of NAME.npz")
    size = found.train.x.shape[1]
    others = load_features(strangers).x if strangers else np.empty((0, size), np.float32)
    everybody = np.ones(len(found.train.names), bool)
    return Draw(found.train, found.val, found.test, np.asarray(others), everybody)


def faces(shared: Path, embedder: str, *, every: int = 1) -> Faces:
    """Embedded by a shipped model's name or a file with its card; kept in runs/ by its digest. Only
    one in `every` identities is looked at, for runs that must be short."""
    card = load_card(embedder, "embedding")
    part = "" if every == 1 else f"-{every}th"
    cached = CACHE / f"{card.digest[:16]}{part}.npz"
    if not cached.exists():
        _embed(_folders(shared)[::every], Embedder.load(embedder), cached)
    arrays = np.load(cached)
    x, y, unseen = _distinct(arrays["x"], arrays["y"], arrays["unseen"])
    names = [str(i) for i in range(int(y.max()) + 1)]
    known = Features(x[y >= 0], y[y >= 0], names)
    return Faces(known, x[y < 0], unseen, card.name, card.digest)


def cosines(features: Features) -> dict[str, float]:
    """Mean and deviation of the cosine of two images of one class, and of two classes."""
    rng = np.random.default_rng(0)
    order = np.argsort(features.y, kind="stable")
    a, b = order[:-1], order[1:]
    same = features.y[a] == features.y[b]
    genuine = (features.x[a[same]] * features.x[b[same]]).sum(axis=1)
    a, b = rng.integers(0, len(features.y), (2, 100_000))
    other = features.y[a] != features.y[b]
    impostor = (features.x[a[other]] * features.x[b[other]]).sum(axis=1)
    return {
        "genuine_cosine": float(genuine.mean()), "genuine_cosine_sd": float(genuine.std()),
        "impostor_cosine": float(impostor.mean()), "impostor_cosine_sd": float(impostor.std()),
    }  # fmt: skip


def fit(known: Features) -> dict[str, NDArray[Any]]:
    """Mean, square roots of the between- and within-class covariances, and residual lengths `r` by
    class: `count` from `first`."""
    x, y = unit(known.x).astype(np.float64), known.y
    counts = np.bincount(y)[:, None]
    sums = np.zeros((len(counts), x.shape[1]))
    np.add.at(sums, y, x)
    means = sums / counts
    # The own image is in its mean: unbiased residuals are longer by sqrt(n / (n - 1)).
    residual = (x - means[y]) * np.sqrt(counts / (counts - 1))[y]
    lengths = np.linalg.norm(residual, axis=1)
    within = residual.T @ residual / len(x)
    noise = within / np.mean(counts)
    between = np.cov(means.T) - noise

    scale, order = np.sqrt((lengths**2).mean()), np.argsort(y, kind="stable")
    count = counts[:, 0].astype(np.int64)
    return {"mean": means.mean(axis=0).astype(np.float32), "between": root(between),
            "within": root(within), "r": (lengths[order] / scale).astype(np.float32),
            "first": np.cumsum(count) - count, "count": count}  # fmt: skip


def root(covariance: NDArray[Any]) -> NDArray[np.float32]:
    """A square root (d, d) of a covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)), np.float32)


def synthetic(
    n: int, model: dict[str, NDArray[Any]], seed: int, *, images: int = TRAIN, probes: int = PROBES
) -> Draw:
    """`images` of each of n classes to train on, at most `probes` for validation and for test, of
    random classes."""
    rng = np.random.default_rng(seed)
    d = len(model["mean"])
    names = [str(i) for i in range(n)]

    def people(count: int) -> NDArray[np.float32]:
        noise = rng.standard_normal((count, d), dtype=np.float32)
        centres: NDArray[np.float32] = model["mean"] + noise @ model["between"].T
        return centres

    def pictures(
        centres: NDArray[np.float32], y: NDArray[np.int64], like: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        rows = np.empty((len(y), d), dtype=np.float32)
        for s in range(0, len(y), 65536):
            part, model_of = centres[y[s : s + 65536]], like[y[s : s + 65536]]
            pick = model["first"][model_of] + rng.integers(model["count"][model_of])
            noise = rng.standard_normal(part.shape, dtype=np.float32) @ model["within"].T
            rows[s : s + 65536] = unit(part + model["r"][pick][:, None] * noise)
        return rows

    centres, like = people(n), rng.integers(0, len(model["first"]), max(n, UNKNOWNS))
    every = np.repeat(np.arange(n), images)
    train = Features(pictures(centres, every, like), every, names)
    some = [rng.permutation(np.repeat(np.arange(n), each))[:probes] for each in (VAL, TEST)]
    val, test = (Features(pictures(centres, y, like), y, names) for y in some)
    strangers = pictures(people(UNKNOWNS), np.arange(UNKNOWNS), like)
    return Draw(train, val, test, strangers, np.ones(n, dtype=bool))


def _distinct(
    x: NDArray[np.float32], y: NDArray[np.int64], unseen: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
    """Without the classes whose mean is closer than SAME_PERSON to that of an earlier class: one
    person under two labels."""
    n = int(y.max()) + 1
    means = centres_of(x[y >= 0], y[y >= 0], n)
    twin = np.asarray(np.tril(means @ means.T > SAME_PERSON, -1).any(axis=1))
    keep = (y < 0) | ~twin[y]
    renamed = np.where(twin, -1, np.cumsum(~twin) - 1)
    return x[keep], np.where(y[keep] < 0, -1, renamed[y[keep]]), unseen[~twin]


def _folders(shared: Path) -> list[tuple[str, list[Path]]]:
    """Every identity folder of the shared crops and its pictures, sorted."""
    data = shared / "data"
    roots = [
        data / "lfw/aligned112",
        data / "pins/train",
        data / "pins/test",
        data / "faces/celeba",
    ]
    found = []
    for root in roots:
        for folder in sorted(p for p in root.rglob("*") if p.is_dir()):
            pictures = sorted(folder.glob("*.webp"))
            if pictures:
                found.append((str(folder.relative_to(data)), pictures))
    return found


def _person(folder: str) -> str:
    """Names two sets share become one: letters only, lower case. CelebA's are numbers."""
    letters = re.sub("[^a-z]", "", Path(folder).name.lower().removeprefix("pins_"))
    return letters or folder


def _embed(folders: list[tuple[str, list[Path]]], embedder: Embedder, cached: Path) -> None:
    known: dict[str, tuple[str, list[Path]]] = {}
    unknown: list[Path] = []
    for folder, pictures in folders:
        if len(pictures) >= MIN_IMAGES:
            known.setdefault(_person(folder), (folder, pictures[:MAX_IMAGES]))
        elif len(pictures) == 1 and folder.startswith("lfw"):
            unknown += pictures
    unknown = unknown[:: max(1, len(unknown) // UNKNOWNS)][:UNKNOWNS]
    paths = [p for _, pictures in known.values() for p in pictures] + unknown
    labels = [i for i, (_, pictures) in enumerate(known.values()) for _ in pictures]
    labels += [-1] * len(unknown)
    if not known:
        raise DataError("no identity has enough crops; --shared names the test data folder")
    rows = []
    for start in range(0, len(paths), 256):
        rows.append(embedder(stack(paths[start : start + 256])))
    cached.parent.mkdir(parents=True, exist_ok=True)
    unseen = [folder.startswith(UNSEEN) for folder, _ in known.values()]
    np.savez(cached, x=np.concatenate(rows), y=np.asarray(labels), unseen=np.asarray(unseen))
