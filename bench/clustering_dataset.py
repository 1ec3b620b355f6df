"""`bench clustering --dataset`: a folder of people embedded, clustered, scored and drawn, as users
of UnsupervisedFaceClustering run it, into OUT/MODEL/NAME.

`metrics.json`, `faces.csv` (file, class, cluster), `samples.jpg` (the largest clusters, a row each,
faces of another class than most of the row framed), and, where umap-learn is installed,
`umap-2d.png` and `umap-3d.png` (McInnes et al. 2018), coloured by class and by cluster.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from edgeface.cluster import cluster
from edgeface.embed import Embedder
from edgeface.errors import DataError, ImageError
from edgeface.images import read
from edgeface.listing import pictures_in
from edgeface.models import load_card
from export.protocols.embedders import open_embedder

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Embed = Callable[[NDArray[np.uint8]], Floats]

SIDE, BATCH = 112, 256
ROWS, ACROSS = 12, 12  # clusters and faces of the sheet
NAMED = 14  # classes or clusters with a colour and a place in the legend; the next ones are grey


@dataclass(frozen=True, slots=True, eq=False)
class Folder:
    """Pictures of people: `files` (n), whose they are as rows (n,) of the `classes`, and unit
    `embeddings` (n, d)."""

    files: list[Path]
    truth: Ints
    classes: list[str]
    embeddings: Floats


def opened(model: str, threads: int) -> tuple[str, Embed]:
    """An embedder and its name: shipped, a file with a card, or a file without one, which is taken
    for the original project's: RGB, (x - 127.5) / 127.5, one picture at a time."""
    file = Path(model)
    if (
        file.suffix in {".onnx", ".xml"}
        and file.is_file()
        and not file.with_suffix(".json").exists()
    ):
        return file.stem, open_embedder(file, threads=threads, original=True)
    card = load_card(model, "embedding")
    return card.name, Embedder.load(model, threads=threads)


def crop(file: Path) -> NDArray[np.uint8]:
    """A picture as a crop: what is no crop yet is resized whole, as the original does."""
    image = read(file)
    if image.shape[:2] == (SIDE, SIDE):
        return image
    return np.asarray(cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def read_folder(root: Path, embed: Embed) -> Folder:
    """Every picture of every class, which are the folders in `root`. What cannot be read is told
    and left out.

    Raises:
        DataError: it is no folder, or there are not two pictures in folders of it.
    """
    pictures = [f for f in pictures_in(root).pictures if f.parent != root]
    whose = [f.relative_to(root).parts[0] for f in pictures]
    classes = sorted(set(whose))
    found = [(f, classes.index(name)) for f, name in zip(pictures, whose, strict=True)]
    files: list[Path] = []
    truth: list[int] = []
    parts: list[Floats] = []
    for start in range(0, len(found), BATCH):
        crops = []
        for file, row in found[start : start + BATCH]:
            try:
                crops.append(crop(file))
            except ImageError as error:
                print(f"clustering: passed over {error}", file=sys.stderr)
                continue
            files.append(file)
            truth.append(row)
        if crops:
            parts.append(embed(np.stack(crops)))
        print(f"\rclustering: {start}/{len(found)} pictures", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    if len(files) < 2:
        raise DataError(f"{root}: expected a folder per person with pictures in it")
    return Folder(files, np.array(truth, np.int64), classes, np.concatenate(parts))


def evaluate(
    root: Path, name: str, model: str, out: Path, threads: int,
    scores: Callable[[str, Ints, NDArray[np.int32]], dict[str, float | str | None]],
) -> dict[str, float | str | None]:  # fmt: skip
    """Cluster a folder and write what this module's documentation lists; the figures."""
    called, embed = opened(model, threads)
    faces = read_folder(root, embed)
    labels = cluster(faces.embeddings).labels
    prefix = f"clustering.{name}.{called}"
    figures: dict[str, float | str | None] = {
        f"{prefix}.pictures": float(len(faces.files)),
        f"{prefix}.classes": float(len(np.unique(faces.truth))),
    }
    figures |= scores(prefix, faces.truth, labels)
    place = out / called / name
    place.mkdir(parents=True, exist_ok=True)
    short = {k.removeprefix(f"{prefix}."): v for k, v in figures.items()}
    (place / "metrics.json").write_text(json.dumps(short, indent=1) + "\n")
    with (place / "faces.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["file", "class", "cluster"])
        for file, row, label in zip(faces.files, faces.truth, labels, strict=True):
            table.writerow([file.relative_to(root), faces.classes[row], label])
    cv2.imwrite(str(place / "samples.jpg"), samples(faces, labels))
    if importlib.util.find_spec("umap") is None:
        print("clustering: no maps, they need pip install 'edgeface[bench]'", file=sys.stderr)
    else:
        for dimensions in (2, 3):
            draw(faces, labels, place / f"umap-{dimensions}d.png", dimensions)
    print(f"clustering: see {place}", file=sys.stderr)
    return figures


def samples(faces: Folder, labels: NDArray[np.int32]) -> NDArray[np.uint8]:
    """The sheet of the largest clusters (h, w, 3) uint8 BGR."""
    rng = np.random.default_rng(0)
    found, sizes = np.unique(labels[labels >= 0], return_counts=True)
    largest = found[np.argsort(-sizes, kind="stable")][:ROWS]
    sheet = np.full((max(len(largest), 1) * SIDE, ACROSS * SIDE, 3), 255, np.uint8)
    for y, label in enumerate(largest):
        own = np.flatnonzero(labels == label)
        most = np.bincount(faces.truth[own]).argmax()
        for x, i in enumerate(np.sort(rng.permutation(own)[:ACROSS])):
            picture = crop(faces.files[i]).copy()
            if faces.truth[i] != most:
                cv2.rectangle(picture, (1, 1), (SIDE - 2, SIDE - 2), (0, 0, 255), 3)
            sheet[y * SIDE : (y + 1) * SIDE, x * SIDE : (x + 1) * SIDE] = picture
    return sheet


def draw(faces: Folder, labels: NDArray[np.int32], file: Path, dimensions: int) -> None:
    """A map of the embeddings, by class and by cluster."""
    from umap import UMAP

    near = min(15, len(faces.files) - 1)
    # umap-learn warns when it takes away threads that a seed does not allow.
    mapper = UMAP(
        n_components=dimensions, n_neighbors=near, metric="cosine", random_state=0, n_jobs=1
    )
    points = mapper.fit_transform(faces.embeddings)
    picture = Figure(figsize=(16, 7), layout="constrained")
    clusters = {int(v): "alone" if v < 0 else f"cluster {v}" for v in np.unique(labels)}
    names = dict(enumerate(faces.classes))
    for at, (title, values, called) in enumerate(
        (("by class", faces.truth, names), ("by cluster", labels.astype(np.int64), clusters))
    ):
        projection = "3d" if dimensions == 3 else None
        axes = picture.add_subplot(1, 2, at + 1, projection=projection)
        _scatter(axes, points, values, called)
        axes.set_title(f"{title}: {len(np.unique(values))}")
    picture.savefig(file, dpi=110, facecolor="white")


def _scatter(axes: Axes, points: Floats, values: Ints, called: dict[int, str]) -> None:
    found, sizes = np.unique(values, return_counts=True)
    largest = [v for v in found[np.argsort(-sizes, kind="stable")] if v >= 0][:NAMED]
    colours = mpl.colormaps["tab20"]
    groups = [(values == v, colours(i), called[int(v)]) for i, v in enumerate(largest)]
    rest = ~np.isin(values, largest)
    if rest.any():
        groups.insert(0, (rest, colours(15), f"{len(found) - len(largest)} more"))
    for some, colour, name in groups:
        options: dict[str, Any] = {"s": 6, "color": colour, "label": name}
        axes.scatter(*points[some].T, **options)
    axes.legend(fontsize=7, markerscale=2, loc="center left", bbox_to_anchor=(1.02, 0.5))
