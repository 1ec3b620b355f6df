"""Frozen embeddings by class, as `export heads` and `bench submodels` take them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import DataError
from edgeface.submodels import unit


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Embeddings `x` (n, d) float32, class `y` (n,) int64 in 0 ... N-1, class `names`."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    names: list[str]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A set divided by whoever made it; `val` and `test` hold classes of `train` only."""

    train: Features
    val: Features
    test: Features


def load_features(path: Path) -> Features:
    """A folder of NAME.npz, one per identity with its embeddings under `x` or as the only array, or
    a folder with embeddings.npy (mapped, not read) and labels.npy, and names.json if the classes
    have names.

    Raises:
        DataError: it is neither, or a file does not hold embeddings (n, d) of one d.
    """
    mapped = path / "embeddings.npy"
    if mapped.exists():
        y = np.load(path / "labels.npy").astype(np.int64)
        listed = path / "names.json"
        n = int(y.max()) + 1
        names = json.loads(listed.read_text()) if listed.exists() else [str(i) for i in range(n)]
        return Features(np.load(mapped, mmap_mode="r"), y, names)
    files = sorted(path.glob("*.npz"))
    if not files:
        raise DataError(
            f"{path}: no embeddings.npy and no NAME.npz; see python -m export heads --help"
        )
    rows = [_rows(file) for file in files]
    for file, own in zip(files, rows, strict=True):
        if own.shape[1] != rows[0].shape[1]:
            raise DataError(
                f"{file}: embeddings of {own.shape[1]} numbers, {files[0].name} has "
                f"{rows[0].shape[1]}"
            )
    y = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
    return Features(np.concatenate(rows), y, [f.stem for f in files])


def _rows(file: Path) -> NDArray[np.float32]:
    """The embeddings of one identity."""
    try:
        with np.load(file) as found:
            name = "x" if "x" in found.files else found.files[0] if len(found.files) == 1 else None
            names = ", ".join(found.files) or "nothing"
            rows = None if name is None else np.asarray(found[name], np.float32)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise DataError(f"{file}: expected an .npz of embeddings: {error}") from error
    if rows is None:
        raise DataError(f"{file}: expected one array, or one called x, found {names}")
    if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all() or not rows.any(axis=1).all():
        raise DataError(
            f"{file}: expected embeddings (n, d), finite and none of them zero, got {rows.shape}"
        )
    return rows


def load_prepared(path: Path) -> Prepared | None:
    """`path`/train, val and test, folders as `load_features` takes them; None where there is no
    train among them.

    Raises:
        DataError: val or test is missing, or has a class that train has not.
    """
    if not (path / "train").is_dir():
        return None
    train = load_features(path / "train")
    row = {name: i for i, name in enumerate(train.names)}
    others = []
    for part in ("val", "test"):
        found = load_features(path / part)
        strange = [name for name in found.names if name not in row]
        if strange:
            raise DataError(f"{path / part}: {', '.join(strange[:5])} are not in train")
        if found.x.shape[1] != train.x.shape[1]:
            raise DataError(
                f"{path / part}: embeddings of {found.x.shape[1]} numbers, train has "
                f"{train.x.shape[1]}"
            )
        y = np.array([row[name] for name in found.names], np.int64)[found.y]
        others.append(Features(found.x, y, train.names))
    return Prepared(train, *others)


def split(features: Features, per_class: int, seed: int = 0) -> tuple[Features, Features]:
    """`per_class` random embeddings of each class, and the rest; (rest, held out)."""
    rng = np.random.default_rng(seed)
    held = np.zeros(len(features.y), dtype=bool)
    for c in range(len(features.names)):
        own = np.flatnonzero(features.y == c)
        if len(own) <= per_class:
            raise DataError(
                f"class {features.names[c]} has {len(own)} embeddings; {per_class} are held out "
                "for validation and at least one must remain"
            )
        held[rng.permutation(own)[:per_class]] = True
    x = np.asarray(features.x)
    return (
        Features(x[~held], features.y[~held], features.names),
        Features(x[held], features.y[held], features.names),
    )


def centres_of(x: NDArray[np.float32], y: NDArray[np.int64], n: int) -> NDArray[np.float32]:
    """Unit mean of the unit embeddings of each class (n, d)."""
    sums = np.zeros((n, x.shape[1]))
    np.add.at(sums, y, unit(x))
    return unit(sums)
