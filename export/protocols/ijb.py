"""The lists of IJB-B and IJB-C (Whitelam et al. 2017, Maze et al. 2018) as those who score on them
have them: which picture belongs to which template and medium, which templates are compared, who is
in a gallery and who is searched for.

`*_face_tid_mid.txt` has a line per picture, `NAME TEMPLATE MEDIUM`; in the same order
`*_name_5pts_score.txt`, `NAME X1 Y1 … X5 Y5 SCORE`, px; `*_template_pair_label.txt` has `TEMPLATE
TEMPLATE SAME` with SAME 0 or 1; `*_1N_gallery_*.csv` and `*_1N_probe_*.csv` have a heading and rows
that begin `TEMPLATE,PERSON`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import DataError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Compared = tuple[Ints, Ints, NDArray[np.bool_]]

BLOCK = 1 << 16  # lines of a list of pairs in memory at a time


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """Every picture of the lists: `files` (n) by name, the `template` and the `medium` (n,) it
    belongs to."""

    files: list[str]
    template: Ints
    medium: Ints

    def groups(self, kept: NDArray[np.bool_]) -> tuple[Ints, Ints, Ints, Ints]:
        """Every template once, ascending (t,); the pictures that are `kept` (n,) in the `order`
        (k,) of template and medium; where in it each medium of a template begins (m,), and where
        among these each template does (t + 1,)."""
        order = np.lexsort((self.medium, self.template))
        order = order[kept[order]]
        template, medium = self.template[order], self.medium[order]
        new = np.ones(len(order), bool)
        new[1:] = (template[1:] != template[:-1]) | (medium[1:] != medium[:-1])
        begin = np.flatnonzero(new)
        every = np.unique(self.template)
        return every, order, begin, np.append(np.searchsorted(template[begin], every), len(begin))


@dataclass(frozen=True, slots=True, eq=False)
class Marks:
    """Where the face is in every picture: five `landmarks` (n, 5, 2) px, detector `score` (n,)."""

    landmarks: Floats
    score: Floats


@dataclass(frozen=True, slots=True, eq=False)
class People:
    """Templates (n,) and whose they are (n,)."""

    template: Ints
    person: Ints


def only(folder: Path, pattern: str) -> Path:
    """The one file of a folder that is called so.

    Raises:
        DataError: there is none, or there are several.
    """
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = ", ".join(f.name for f in found) or "none"
        raise DataError(f"{folder}: expected one file {pattern}, found {names}")
    return found[0]


def read_pictures(folder: Path) -> Pictures:
    """What `*_face_tid_mid.txt` says.

    Raises:
        DataError: there is no such list, or a line of it is no name with two numbers.
    """
    file = only(folder, "*_face_tid_mid.txt")
    names, numbers = _named(file, 2, int)
    table = np.array(numbers, np.int64).reshape(-1, 2)
    return Pictures(names, table[:, 0], table[:, 1])


def read_marks(folder: Path, pictures: Pictures) -> Marks:
    """What `*_name_5pts_score.txt` says of the pictures.

    Raises:
        DataError: there is no such list, or it is not of these pictures in this order.
    """
    file = only(folder, "*_name_5pts_score.txt")
    names, numbers = _named(file, 11, float)
    if names != pictures.files:
        other = [i for i, (a, b) in enumerate(zip(names, pictures.files, strict=False)) if a != b]
        where = f"{names[other[0]]} as picture {other[0] + 1}" if other else f"{len(names)} lines"
        raise DataError(
            f"{file}: {where}, expected the {len(pictures.files)} pictures of *_face_tid_mid.txt "
            "in their order"
        )
    table = np.array(numbers, np.float32).reshape(-1, 11)
    return Marks(table[:, :10].reshape(-1, 5, 2), table[:, 10])


def _named(file: Path, count: int, kind: type[int] | type[float]) -> tuple[list[str], list[float]]:
    """The names that lines begin with, and the `count` numbers of each line in one list."""
    names: list[str] = []
    numbers: list[float] = []
    with file.open(encoding="utf-8") as lines:
        for place, line in enumerate(lines, 1):
            if not line.strip():
                continue
            name, *values = line.rsplit(maxsplit=count)
            try:
                found = [kind(v) for v in values]
            except ValueError:
                found = []
            if len(found) != count:
                raise DataError(
                    f"{file}, line {place}: expected a name and {count} numbers, got "
                    f"{line.strip()!r}"
                )
            names.append(name)
            numbers += found
    if not names:
        raise DataError(f"{file}: no lines")
    return names, numbers


def read_pairs(folder: Path, templates: Ints) -> Iterator[Compared]:
    """The pairs of `*_template_pair_label.txt` as rows of `templates` (t,), ascending, and whether
    both are of one person, at most `BLOCK` at a time.

    Raises:
        DataError: there is no such list, a line is not as it should be, or names a template of
            which there is no picture.
    """
    file = only(folder, "*_template_pair_label.txt")
    place = 1
    with file.open(encoding="utf-8") as lines:
        while some := list(islice(lines, BLOCK)):
            where = f"{file}, lines {place} to {place + len(some) - 1}"
            place += len(some)
            if not any(line.strip() for line in some):
                continue
            try:
                table = np.loadtxt(some, np.int64, comments=None, ndmin=2)
            except ValueError as error:
                raise DataError(f"{where}: expected TEMPLATE TEMPLATE SAME: {error}") from error
            if table.shape[1] != 3 or not np.isin(table[:, 2], (0, 1)).all():
                raise DataError(f"{where}: expected TEMPLATE TEMPLATE SAME, SAME 0 or 1")
            rows = rows_of(table[:, :2], templates, where)
            yield rows[:, 0], rows[:, 1], table[:, 2] == 1


def rows_of(wanted: Ints, templates: Ints, where: str) -> Ints:
    """The rows of templates in `templates` (t,), ascending.

    Raises:
        DataError: one of them is not there.
    """
    rows = np.minimum(np.searchsorted(templates, wanted), len(templates) - 1)
    strange = np.unique(wanted[templates[rows] != wanted])
    if len(strange):
        some = ", ".join(str(t) for t in strange[:5])
        raise DataError(f"{where}: there is no picture of template {some}")
    return rows


def read_people(file: Path, templates: Ints) -> People:
    """The templates of a gallery or of probes, each once, as rows of `templates` (t,).

    Raises:
        DataError: a row does not begin with two whole numbers, a template is two people's, or
            there is no picture of it.
    """
    found: dict[int, int] = {}
    with file.open(encoding="utf-8", newline="") as lines:
        for place, row in enumerate(csv.reader(lines), 1):
            if place == 1 or not row:
                continue
            try:
                template, person = int(row[0]), int(row[1])
            except (ValueError, IndexError) as error:
                raise DataError(
                    f"{file}, line {place}: expected TEMPLATE,PERSON, got {','.join(row)!r}"
                ) from error
            if found.setdefault(template, person) != person:
                raise DataError(f"{file}, line {place}: template {template} is of two people")
    if not found:
        raise DataError(f"{file}: no templates")
    table = np.array(list(found.items()), np.int64)
    return People(rows_of(table[:, 0], templates, str(file)), table[:, 1])


def read_searches(folder: Path, templates: Ints) -> tuple[dict[str, People], People] | None:
    """The galleries by the end of their file's name, and all probes; None where there is no list of
    a gallery.

    Raises:
        DataError: there are galleries and no probes, somebody is in a gallery twice, or see
            `read_people`.
    """
    files = sorted(folder.glob("*_1N_gallery_*.csv"))
    if not files:
        return None
    searched = sorted(folder.glob("*_1N_probe_*.csv"))
    if not searched:
        raise DataError(f"{folder}: galleries, but no probes: expected *_1N_probe_*.csv")
    galleries = {}
    for file in files:
        people = read_people(file, templates)
        if len(np.unique(people.person)) < len(people.person):
            raise DataError(f"{file}: expected one template for each person")
        galleries[file.stem.rpartition("_")[2]] = people
    probes = [read_people(file, templates) for file in searched]
    return galleries, People(
        np.concatenate([p.template for p in probes]), np.concatenate([p.person for p in probes])
    )
