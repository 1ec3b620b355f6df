"""What a user gets from a clustering: JSON, CSV, and one self-contained HTML page."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from edgeface.atomic import replacing
from edgeface.types import Array

SHOWN = 60  # pictures of one person on the page
PAGE = Path(__file__).parent / "page"


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One face of the result: its `number` and `name`, the `file` it was found in, its `box` there
    (4,) px or None, `person` (-1 = nobody) with the `label` somebody gave them ("" = none),
    `certainty`, whether it is the person's `exemplar`, why it is `unfit` ("" = it is not), and its
    `recognisability`, see `Face`."""

    number: int
    name: str
    file: Path
    box: Array | None
    person: int
    certainty: float
    exemplar: bool
    label: str = ""
    unfit: str = ""
    recognisability: float = 1.0


def people(rows: Iterable[Row]) -> list[tuple[int, list[Row]]]:
    """Faces by person: largest first, the least certain faces of a person first; what cannot be
    judged last."""
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.person, []).append(row)
    for group in groups.values():
        group.sort(key=lambda r: (r.certainty, r.name))
    return sorted(groups.items(), key=lambda g: (g[0] < 0, -len(g[1]), g[0]))


def folder_name(person: int, label: str = "") -> str:
    """A name that every file system takes: the label's, or `person-00007`."""
    name = re.sub(r'[\x00-\x1f/\\:*?"<>|]', "_", label).strip(" .")[:100]
    return name or f"person-{person:05d}"


def printable(text: str) -> str:
    """Text as it can be shown: bytes of a file name that are no UTF-8 become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def write_json(path: Path, rows: Sequence[Row]) -> None:
    """One document: people with their faces, and the faces that cannot be judged. Text is ASCII
    with escapes, so that every file name survives."""
    found: dict[str, Any] = {"people": [], "unfit": []}
    for person, group in people(rows):
        if person < 0:
            found["unfit"] = [_face(r) | {"reason": r.unfit} for r in group]
        else:
            name = group[0].label or None
            faces = [_face(r) for r in group]
            found["people"].append({"person": person, "name": name, "faces": faces})
    _write(path, json.dumps(found, indent=1) + "\n")


def _face(row: Row) -> dict[str, Any]:
    return {
        "number": row.number,
        "face": row.name,
        "file": str(row.file),
        "box": None if row.box is None else [round(float(v), 1) for v in row.box],
        "certainty": round(row.certainty, 4),
        "exemplar": row.exemplar,
    }


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """One line per face, in the order of the faces."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    head = ["face", "file", "person", "certainty", "exemplar", "number", "name", "unfit"]
    table.writerow(head)
    for r in rows:
        line = [r.name, str(r.file), r.person, f"{r.certainty:.4f}", int(r.exemplar), r.number]
        table.writerow([*map(_cell, line), _cell(r.label), r.unfit])
    _write(path, text.getvalue())


def _cell(value: object) -> object:
    """Spreadsheets run a cell that starts like a formula; an apostrophe makes it text."""
    if not isinstance(value, str):
        return value
    shown = printable(value)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@", "\t", "\r")) else shown


def write_html(
    path: Path,
    rows: Sequence[Row],
    *,
    crop: Callable[[Row], bytes | None],
    embeddings: Array | None = None,
) -> None:
    """One page without outside references but links to the pictures: a sheet per person, a map, and
    folded away what cannot be judged.

    `crop` gives the small JPEG of a face, None where there is none; `embeddings` (n, d) in the
    order of `rows` are drawn as a map of the two directions in which exemplars differ most.
    """
    data = document(rows, embeddings, shown=SHOWN)
    pictures: dict[int, str] = {}
    for row in _on_the_page(rows):
        picture = crop(row)
        if picture is not None:
            pictures[row.number] = base64.b64encode(picture).decode()
    for person in data["people"]:
        for face in person["faces"]:
            face["link"] = _link(face.pop("file"), path.parent)
    for face in data["unfit"]["faces"]:
        face["link"] = _link(face.pop("file"), path.parent)
    _write(path, page(data | {"crops": pictures}))


def page(data: dict[str, Any], *, nonce: str = "") -> str:
    """The page that draws `data`; a script reads it, and names reach the page as text alone."""
    # "<" must not occur: "</script>" in a file name would end the script.
    text = json.dumps(data).replace("<", "\\u003c")
    return (
        (PAGE / "people.html")
        .read_text(encoding="utf-8")
        .replace("{{style}}", (PAGE / "people.css").read_text(encoding="utf-8"))
        .replace("{{script}}", (PAGE / "people.js").read_text(encoding="utf-8"))
        .replace("{{nonce}}", nonce)
        .replace("{{data}}", text)
    )


def document(rows: Sequence[Row], embeddings: Array | None, *, shown: int | None) -> dict[str, Any]:
    """What the page draws: people with at most `shown` faces each, the unfit faces, and the map."""
    groups = people(rows)
    return {
        "faces": len(rows),
        "people": [
            {
                "person": person,
                "name": printable(group[0].label),
                "size": len(group),
                "faces": [_shown(row) for row in group[:shown]],
            }
            for person, group in groups
            if person >= 0
        ],
        "unfit": {
            "size": sum(len(group) for person, group in groups if person < 0),
            "faces": [_shown(r) for person, g in groups if person < 0 for r in g[:shown]],
        },
        "map": [] if embeddings is None or len(rows) < 3 else _map(rows, embeddings),
    }


def _on_the_page(rows: Sequence[Row]) -> list[Row]:
    return [row for _, group in people(rows) for row in group[:SHOWN]]


def _shown(row: Row) -> dict[str, Any]:
    return {
        "number": row.number,
        "face": printable(row.name),
        "file": os.fspath(row.file),
        "certainty": round(row.certainty, 2),
        "exemplar": row.exemplar,
        "unfit": row.unfit,
    }


def _link(file: str, base: Path) -> str:
    """A relative address of a picture; every byte of its name survives."""
    try:
        relative = os.path.relpath(file, base.resolve())
    except ValueError:  # another drive
        relative = file
    # "./" in front: a colon in the first part would be read as a scheme.
    return "./" + quote(os.fsencode(Path(relative).as_posix()))


def _map(rows: Sequence[Row], embeddings: Array) -> list[list[float]]:
    """x, y, person, 1 for exemplars, of every face somebody is."""
    placed = [i for i, row in enumerate(rows) if row.person >= 0]
    if len(placed) < 3:
        return []
    exemplars = [k for k, i in enumerate(placed) if rows[i].exemplar]
    points = _plane(embeddings[placed], exemplars)
    return [
        [round(float(x), 1), round(float(y), 1), rows[i].person, int(rows[i].exemplar)]
        for i, (x, y) in zip(placed, points, strict=True)
    ]


def _plane(embeddings: Array, exemplars: list[int]) -> NDArray[np.float64]:
    """Coordinates in 1000 x 500 along the first two principal directions of the exemplars."""
    base = embeddings[exemplars] if len(exemplars) > 2 else embeddings
    centred = base - base.mean(axis=0)
    _, _, directions = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    plane = (embeddings - base.mean(axis=0)) @ directions[:2].T
    if plane.shape[1] < 2:
        plane = np.column_stack([plane, np.zeros(len(plane))])
    low, high = plane.min(axis=0), plane.max(axis=0)
    return np.asarray(20 + (plane - low) / np.maximum(high - low, 1e-9) * [960, 460])


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all, readable by its owner alone: faces are biometric data."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))
