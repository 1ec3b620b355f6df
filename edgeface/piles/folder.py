"""The composition for piles of pictures: a folder in, people out; new pictures join later."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from edgeface import images
from edgeface.alignment import align
from edgeface.cluster import Clusters, checked, cluster
from edgeface.cluster import neighbours as nearest
from edgeface.cluster.changes import Change
from edgeface.cluster.files import (
    read_features,
    read_labels,
    read_neighbours,
    write_labels,
    write_neighbours,
)
from edgeface.cluster.report import (
    Row,
    folder_name,
    people,
    place,
    write_csv,
    write_html,
    write_json,
)
from edgeface.cluster.update import Pile
from edgeface.errors import DataError, ImageError
from edgeface.gallery import Gallery
from edgeface.metrics.clustering import (
    adjusted_rand_index,
    bcubed,
    normalized_mutual_information,
    pairwise,
)
from edgeface.quality import rate
from edgeface.types import Array, Face, Image

Detector = Callable[[Image], list[Face]]
Embedder = Callable[[Image], Array]

PILE, FACES, JOURNAL = "pile.npz", "faces.jsonl", "journal.jsonl"
MARGIN = 0.25  # of the box's larger side, around a face on the report


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A face of a picture: its `name` (path#number), `file`, and the `face` with its embedding."""

    name: str
    file: Path
    face: Face


@dataclass(frozen=True, slots=True, eq=False)
class Sorted:
    """What became of a folder: the faces as `rows`, their `embeddings` (n, d), what `changes` this
    run made, and the pictures that could not be read with the reason."""

    rows: tuple[Row, ...]
    embeddings: Array
    changes: tuple[Change, ...]
    unreadable: tuple[tuple[Path, str], ...]


def cluster_folder(
    folder: str | Path,
    output: str | Path,
    *,
    detector: Detector,
    embedder: Embedder,
    update: bool = False,
    into: Literal["link", "copy"] | None = None,
) -> Sorted:
    """Find the people in the pictures below `folder` and write the result below `output`.

    Writes people.json, people.csv, report.html, and, to go on later, pile.npz, faces.jsonl and
    journal.jsonl. With `update` the pictures that are not in the pile yet join it: people keep
    their ids and the journal says what changed. `into` also makes a folder per person with links
    to (or copies of) the pictures.

    Raises:
        DataError: no pictures, no faces, an `update` without a pile, or a damaged one.
    """
    folder, output = Path(folder), Path(output)
    known = _known(output) if update else []
    pile = Pile.load(output / PILE) if update else None
    if pile is not None and pile.names != tuple(str(k["face"]) for k in known):
        raise DataError(f"{output}: {FACES} and {PILE} do not belong together; cluster anew")
    seen = {str(k["file"]) for k in known}
    files = [f for f in _pictures(folder) if str(f.resolve()) not in seen]
    unreadable: list[tuple[Path, str]] = []
    fresh = list(_faces(files, folder, detector, embedder, unreadable))
    if not fresh and pile is None:
        raise DataError(f"{folder}: no face in {len(files)} pictures")
    changes: list[Change] = []
    if fresh:
        rows = np.stack([f.face.embedding for f in fresh if f.face.embedding is not None])
        names, quality = [f.name for f in fresh], [f.face.quality for f in fresh]
        if pile is None:
            pile = Pile.of(rows, names, quality=quality)
            changes = [Change("created", p) for p in np.unique(pile.people).tolist() if p >= 0]
        else:
            pile, changes = pile.add(rows, names, quality=quality)
    assert pile is not None
    known += [
        {"face": f.name, "file": str(f.file.resolve()), "box": f.face.box.tolist()} for f in fresh
    ]
    result = Sorted(_rows(pile, known), pile.embeddings, tuple(changes), tuple(unreadable))
    _write(output, pile, known, result, append=update)
    if into is not None:
        place(output / "people", result.rows, how=into)
    return result


def enroll_people(result: Sorted, gallery: Gallery, *, at_least: int = 2) -> int:
    """Add every person with `at_least` faces to a gallery as `person-00007`; returns how many."""
    place_of = {row.name: i for i, row in enumerate(result.rows)}
    count = 0
    for person, group in people(result.rows):
        if person < 0 or len(group) < at_least:
            continue
        rows = result.embeddings[[place_of[r.name] for r in group]]
        gallery.enroll(folder_name(person), rows, sources=[r.name for r in group])
        count += 1
    return count


def cluster_features(
    features: str | Path,
    dimension: int,
    *,
    labels: str | Path | None = None,
    neighbours: str | Path | None = None,
    k: int = 80,
    output: str | Path | None = None,
) -> tuple[Clusters, dict[str, float]]:
    """Cluster a features file of the MS1M benchmark; with `labels` the scores say how well;
    `output` receives the found labels, one per line. The kNN file is read, or where there is none
    yet, written with the `k` nearest cosines, as the original does."""
    rows = read_features(features, dimension)
    near = None
    if neighbours is not None and Path(neighbours).exists():
        near = read_neighbours(neighbours)
    elif neighbours is not None:
        near = nearest(checked(rows, None)[0], k)
        Path(neighbours).parent.mkdir(parents=True, exist_ok=True)
        write_neighbours(neighbours, near)
    found = cluster(rows, near=near)
    if output is not None:
        write_labels(output, found.labels)
    if labels is None:
        return found, {}
    truth = read_labels(labels)
    pairs, cubes = pairwise(truth, found.labels), bcubed(truth, found.labels)
    return found, {
        "pairwise_p": pairs.precision,
        "pairwise_r": pairs.recall,
        "pairwise_f": pairs.f,
        "bcubed_p": cubes.precision,
        "bcubed_r": cubes.recall,
        "bcubed_f": cubes.f,
        "nmi": normalized_mutual_information(truth, found.labels),
        "ari": adjusted_rand_index(truth, found.labels),
    }


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder of pictures")
    return sorted(
        f for f in folder.rglob("*") if f.suffix.lower() in images.SUFFIXES and f.is_file()
    )


def _faces(
    files: Sequence[Path],
    folder: Path,
    detector: Detector,
    embedder: Embedder,
    unreadable: list[tuple[Path, str]],
) -> Iterator[Found]:
    for file in files:
        try:
            image = images.read(file)
        except ImageError as error:
            unreadable.append((file, str(error)))
            continue
        faces = detector(image)
        if not faces:
            continue
        crops = align(image, faces)
        rows = embedder(crops)
        for number, (face, crop, row) in enumerate(zip(faces, crops, rows, strict=True)):
            quality = rate(face, crop, (image.shape[0], image.shape[1]))
            name = f"{file.relative_to(folder)}#{number}"
            yield Found(name, file, Face(face.box, face.landmarks, face.score, quality, row))


def _known(output: Path) -> list[dict[str, object]]:
    try:
        lines = (output / FACES).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise DataError(f"{output / FACES}: {error}; cluster without --update first") from error


def _rows(pile: Pile, known: Sequence[dict[str, object]]) -> tuple[Row, ...]:
    clusters = pile.clusters()
    exemplars = set(clusters.exemplars.tolist())
    return tuple(
        Row(
            str(k["face"]),
            Path(str(k["file"])),
            np.array(k["box"], np.float32),
            int(pile.people[i]),
            float(clusters.certainty[i]),
            i in exemplars,
        )
        for i, k in enumerate(known)
    )


def _write(
    output: Path,
    pile: Pile,
    known: Sequence[dict[str, object]],
    result: Sorted,
    *,
    append: bool,
) -> None:
    output.mkdir(parents=True, exist_ok=True)
    pile.save(output / PILE)
    temporary = output / f"{FACES}.part"
    temporary.write_text(
        "".join(json.dumps(k, ensure_ascii=False) + "\n" for k in known), encoding="utf-8"
    )
    temporary.replace(output / FACES)
    with (output / JOURNAL).open("a" if append else "w", encoding="utf-8") as journal:
        journal.writelines(change.to_json() + "\n" for change in result.changes)
        journal.flush()
        os.fsync(journal.fileno())
    write_json(output / "people.json", result.rows)
    write_csv(output / "people.csv", result.rows)
    write_html(output / "report.html", result.rows, crop=_crop, embeddings=result.embeddings)


def _crop(row: Row) -> Image | None:
    """The face with some of its surroundings; None where its picture is gone."""
    try:
        image = images.read(row.file)
    except ImageError:
        return None
    if row.box is None:
        return image
    x1, y1, x2, y2 = (float(v) for v in row.box)
    margin = MARGIN * max(x2 - x1, y2 - y1)
    top, left = max(0, int(y1 - margin)), max(0, int(x1 - margin))
    cut = image[top : max(top + 1, int(y2 + margin)), left : max(left + 1, int(x2 + margin))]
    return cut if cut.size else None
