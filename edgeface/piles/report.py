"""What a user gets from a clustering: folders, JSON, CSV, and one self-contained HTML page."""

from __future__ import annotations

import base64
import csv
import filecmp
import html
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import ArgumentError
from edgeface.types import Array, Image

NOISE = "unplaced"
SHOWN = 60  # pictures of one person on the page


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One face of the result: `name` of the face, the `file` it was found in, its `box` there
    (4,) px or None, `person` (-1 = unplaced), `certainty`, and whether it is the person's
    exemplar."""

    name: str
    file: Path
    box: Array | None
    person: int
    certainty: float
    exemplar: bool


def people(rows: Iterable[Row]) -> list[tuple[int, list[Row]]]:
    """Faces by person: largest first, the least certain faces of a person first; unplaced last."""
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.person, []).append(row)
    for group in groups.values():
        group.sort(key=lambda r: (r.certainty, r.name))
    return sorted(groups.items(), key=lambda g: (g[0] < 0, -len(g[1]), g[0]))


def folder_name(person: int) -> str:
    """`person-00007`, or the folder of unplaced faces."""
    return f"person-{person:05d}" if person >= 0 else NOISE


def write_json(path: str | Path, rows: Sequence[Row]) -> None:
    """One document: people with their faces."""
    document = {
        "people": [
            {
                "person": person,
                "faces": [
                    {
                        "face": r.name,
                        "file": str(r.file),
                        "box": None if r.box is None else [round(float(v), 1) for v in r.box],
                        "certainty": round(r.certainty, 4),
                        "exemplar": r.exemplar,
                    }
                    for r in group
                ],
            }
            for person, group in people(rows)
        ]
    }
    _write(path, json.dumps(document, ensure_ascii=False, indent=1) + "\n")


def write_csv(path: str | Path, rows: Sequence[Row]) -> None:
    """One line per face, in the order of the faces."""
    temporary = Path(f"{path}.part")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["face", "file", "person", "certainty", "exemplar"])
        for r in rows:
            table.writerow([r.name, r.file, r.person, f"{r.certainty:.4f}", int(r.exemplar)])
    temporary.replace(path)


def place(folder: str | Path, rows: Sequence[Row], *, how: Literal["link", "copy"]) -> int:
    """A folder per person with a link to (or copy of) every picture that shows them; returns how
    many were placed. A picture of two people is in both folders. Existing entries are kept."""
    placed = 0
    for row in rows:
        target = Path(folder) / folder_name(row.person)
        target.mkdir(parents=True, exist_ok=True)
        entry, number = target / row.file.name, 1
        while (taken := entry.is_symlink() or entry.exists()) and not _same(entry, row.file):
            entry = target / f"{row.file.stem}-{number}{row.file.suffix}"
            number += 1
        if taken:
            continue
        if how == "link":
            entry.symlink_to(os.path.relpath(row.file.resolve(), target.resolve()))
        else:
            shutil.copy2(row.file, entry)
        placed += 1
    return placed


def _same(entry: Path, file: Path) -> bool:
    if entry.is_symlink():
        return entry.resolve() == file.resolve()
    return filecmp.cmp(entry, file, shallow=False)


def write_html(
    path: str | Path,
    rows: Sequence[Row],
    *,
    crop: Callable[[Row], Image | None],
    embeddings: Array | None = None,
) -> None:
    """One page without outside references: a sheet per person, unplaced faces, a map.

    `crop` gives the small BGR picture of a face, None where there is none; `embeddings` (n, d) in
    the order of `rows` are drawn as a map of the two directions in which exemplars differ most.
    """
    groups = people(rows)
    found = sum(person >= 0 for person, _ in groups)
    parts = [
        f"<h1>{found} people in {len(rows)} faces</h1>",
        "<p>Largest first; within a person the least certain faces come first.</p>",
    ]
    if embeddings is not None and len(rows) > 2:
        parts.append(_map(rows, embeddings))
    for person, group in groups:
        title = f"Person {person}" if person >= 0 else "Unplaced"
        parts.append(
            f'<section id="{folder_name(person)}"><h2>{title} '
            f"<small>{len(group)} faces</small></h2><div class=sheet>"
        )
        parts += [_figure(row, crop(row)) for row in group[:SHOWN]]
        if len(group) > SHOWN:
            parts.append(f"<p>and {len(group) - SHOWN} more certain ones</p>")
        parts.append("</div></section>")
    _write(path, _PAGE.replace("{body}", "\n".join(parts)))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>People</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark }
body { font: 15px/1.4 system-ui, sans-serif; margin: 1.5rem auto; max-width: 75rem;
 padding: 0 1rem }
small { font-weight: normal; opacity: .7 }
.sheet { display: flex; flex-wrap: wrap; gap: .4rem }
figure { margin: 0; width: 5.6rem; font-size: .7rem }
figure img, figure i { width: 5.6rem; height: 5.6rem; object-fit: cover; border-radius: 4px;
 display: block; background: #8883 }
figure.exemplar img { outline: 3px solid #2a7 }
figcaption { overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
svg { width: 100%; max-height: 28rem; background: #8881; border-radius: 6px }
</style></head><body>
{body}
</body></html>
"""


def _figure(row: Row, picture: Image | None) -> str:
    kind = " class=exemplar" if row.exemplar else ""
    name = html.escape(row.name, quote=True)
    image = "<i></i>" if picture is None else f'<img alt="{name}" src="{_encoded(picture)}">'
    return (
        f'<figure{kind}>{image}<figcaption title="{name}">{row.certainty:.2f} {name}'
        "</figcaption></figure>"
    )


def _encoded(picture: Image) -> str:
    import cv2

    size = 90 / max(picture.shape[:2])
    small = cv2.resize(picture, None, fx=size, fy=size, interpolation=cv2.INTER_AREA)
    ok, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])
    if not ok:
        raise ArgumentError(f"a picture of shape {picture.shape} cannot be encoded")
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _map(rows: Sequence[Row], embeddings: Array) -> str:
    points = _plane(embeddings, [i for i, r in enumerate(rows) if r.exemplar])
    dots = []
    for row, (x, y) in zip(rows, points, strict=True):
        # The golden angle spreads neighbouring numbers over the colour circle.
        colour = f"hsl({row.person * 137 % 360} 60% 50%)" if row.person >= 0 else "#888"
        label = html.escape(f"{folder_name(row.person)}: {row.name}", quote=True)
        dots.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{5 if row.exemplar else 2.5}" '
            f'fill="{colour}"><title>{label}</title></circle>'
        )
    return f'<svg id="map" viewBox="0 0 1000 500">{"".join(dots)}</svg>'


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


def _write(path: str | Path, text: str) -> None:
    temporary = Path(f"{path}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
