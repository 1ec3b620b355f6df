"""Who is in a pack: the sets its pictures come from, the groups that labels tell of (ages, origins)
and which two pictures may show one person or relatives, and so say nothing of strangers.

A label file is a CSV named after its set (`utkface_rest.csv`) with a column `file`, the picture's
path in the set. A column `age` makes bands of ages; `age_gender_race` is UTKFace's; any other
column is a group as it stands. Of a set without identities each picture counts as a person. Pairs
that a stronger embedder, the teacher, puts above .5 are left out as possibly one person.
"""

from __future__ import annotations

import csv
import hashlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import EdgefaceError
from export.data import Pack
from export.protocols.cached import cached
from export.teachers import clean_targets, open_teacher, target_file

Floats = NDArray[np.float32]
Embed = Callable[[NDArray[np.uint8]], Floats]
SAME = 0.5  # cosine of the teacher from which two nameless pictures may be one person
AGES = ((0, 9), (10, 19), (20, 59), (60, 120))
ORIGINS = ("White", "Black", "Asian", "Indian", "other origin")  # UTKFace's words for 0 … 4


@dataclass(frozen=True, slots=True, eq=False)
class People:
    """`rows` (n,) of a pack that come from one set; `kin` (n,) is alike for pictures of one person
    or family; `groups` masks (n,) by the name of a group."""

    name: str
    rows: NDArray[np.int64]
    kin: NDArray[np.int64]
    groups: dict[str, NDArray[np.bool_]]

    def some(self, most: int) -> People:
        """At most `most` of the rows and five a person, drawn by a fixed seed; the first of each
        person before any second."""
        most = min(most, 5 * len(np.unique(self.kin)))
        order = np.random.default_rng(0).permutation(len(self.rows))
        _, first = np.unique(self.kin[order], return_index=True)
        later = np.setdiff1d(np.arange(len(order)), first, assume_unique=True)
        kept = np.sort(order[np.concatenate([np.sort(first), later])[:most]])
        return self.take(kept)

    def take(self, kept: NDArray[np.int64]) -> People:
        groups = {name: mask[kept] for name, mask in self.groups.items()}
        return People(self.name, self.rows[kept], self.kin[kept], groups)


def read_labels(files: Iterable[Path]) -> dict[str, list[str]]:
    """The groups of each picture, by its path in the pack."""
    found: dict[str, list[str]] = {}
    for file in files:
        try:
            with file.open(newline="", encoding="utf-8") as stream:
                lines = list(csv.DictReader(stream))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise EdgefaceError(f"labels {file} cannot be read: {error}") from error
        if not lines or "file" not in lines[0]:
            raise EdgefaceError(f"labels {file} need a column 'file' and lines below it")
        for line in lines:
            found[f"{file.stem}/{line['file']}"] = [
                g for k, v in line.items() for g in _groups(k, v)
            ]
    return found


def _groups(column: str, value: str | None) -> list[str]:
    if column == "file" or not value:
        return []
    if column == "age":
        return _age(value)
    if column == "age_gender_race":
        age, *_, origin = value.split("_")
        known = origin in {"0", "1", "2", "3", "4"}
        return [*_age(age), *([ORIGINS[int(origin)]] if known else [])]
    return [value]


def _age(text: str) -> list[str]:
    if not text.isdigit():
        return []
    bands = (f"ages {a}–{b}" if b < 120 else f"ages {a} and over" for a, b in AGES)
    return [band for band, (a, b) in zip(bands, AGES, strict=True) if a <= int(text) <= b]


def sets_of(data: Pack, labels: dict[str, list[str]]) -> list[People]:
    """The sets of a pack that tell people apart: those with identities, and those that the label
    files are about."""
    names = np.array([path.split("/", 1)[0] for path in data.paths])
    told = np.array([path in labels for path in data.paths])
    families = data.families()
    found = []
    for name in sorted(set(names.tolist())):
        rows = np.flatnonzero((names == name) & data.keep & ((data.identity >= 0) | told))
        if not len(rows):
            continue
        alone = len(data.names) + np.arange(len(rows))
        kin = np.where(families[rows] >= 0, families[rows], alone)
        own = [labels.get(data.paths[row], []) for row in rows]
        groups = {
            group: np.array([group in line for line in own])
            for group in sorted({group for line in own for group in line})
        }
        found.append(People(name, rows, kin, groups))
    return found


def embed_rows(
    embed: Embed, data: Pack, rows: NDArray[np.int64], *, name: str, cache: Path | None = None
) -> Floats:
    """(n, d) unit rows of pictures of a pack; kept in the folder `cache` under `name` and the rows
    they are of."""
    key = hashlib.sha256(rows.tobytes() + str(len(data.paths)).encode()).hexdigest()[:12]

    def make() -> Floats:
        parts = []
        for start in range(0, len(rows), 256):
            parts.append(embed(np.ascontiguousarray(data.images[rows[start : start + 256]])))
            done = min(start + 256, len(rows))
            print(f"\r{name}: {done}/{len(rows)}", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        return np.concatenate(parts)

    return cached(None if cache is None else cache / f"{name}.{key}.npy", make)


def judged(pack: Path, teacher: Path | None, data: Pack, rows: NDArray[np.int64]) -> Floats | None:
    """The teacher's unit embeddings of `rows`, from `export targets` where it has them."""
    if teacher is None:
        return None
    cached = target_file(pack, teacher)
    if cached.exists():
        aims = np.asarray(np.load(cached, mmap_mode="r")[rows], np.float32)
    else:
        aims = clean_targets(open_teacher(teacher, 32), data.images[rows]).astype(np.float32)
    unit: Floats = aims / np.linalg.norm(aims, axis=1, keepdims=True)
    return unit


def strangers(people: People, opinion: Floats | None) -> NDArray[np.bool_]:
    """(n, n): which pairs of a set are certainly of strangers; labels of people are wrong too."""
    apart = people.kin[:, None] != people.kin[None]
    if opinion is not None:
        apart &= opinion @ opinion.T < SAME
    return np.asarray(apart, np.bool_)
