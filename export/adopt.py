"""`python -m export adopt FILE.onnx --faces FOLDER`: any ArcFace-like ONNX file becomes a model of
edgeface.

What the file wants to be fed is found by trying and said (`export.contract`); its graph is made
plain and faster for ONNX Runtime (`export.rewrite`), with float16 weights; and INT8 is made of it
for both runtimes (`export.qdq`). Each file has to say what the file as it came says, within the
budgets of `export.gate`; INT8 that does not is left out, and that is said too. The card's threshold
and what it knows of strangers come from the faces: aligned 112×112 crops, a folder per person
(`python -m export align` cuts them). Three folders of people and more give an impostor model as
well. A track's faces are fused in closed form. No torch is needed.

The terms of the file are yours to find out: they are asked for and written into the cards.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
from numpy.typing import NDArray

from edgeface.document import Json
from edgeface.embed import Embedder
from edgeface.errors import EdgefaceError
from edgeface.models import ModelCard, digest, write_card
from export.cohort import fit_to
from export.contract import Floats, Foreign, find, open_foreign
from export.data import Crop, Pack, list_crops, open_pack, pack
from export.gate import BUDGETS, ROUNDING, by_file, runtimes
from export.irfile import save
from export.net import Net
from export.placing import install
from export.qdq import quantized
from export.rewrite import feed, normalise, split_prelus, unit
from export.teachers import to_input
from export.threshold import card_of, measure

CHECKED = 240  # faces that files are compared on
CALIBRATED = 256  # faces that INT8 is calibrated on
SETS = 3  # of people, the least for an impostor model
PRECISIONS = {
    "float": "fp32 arithmetic, fp16 weights",
    "int8": "int8 weights per channel, uint8 maps",
}


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """The user's faces: a pack, and the `rows` of it whose person is known."""

    path: Path
    data: Pack
    rows: NDArray[np.int64]

    def images(self, count: int, seed: int) -> NDArray[np.uint8]:
        """Some of the crops, (n, 112, 112, 3) uint8 BGR."""
        order = np.random.default_rng(seed).permutation(self.rows)
        return np.asarray(self.data.images[np.sort(order[:count])])


def some(crops: list[Crop], most: int) -> list[Crop]:
    """At most so many pictures, by chance."""
    order = np.random.default_rng(0).permutation(len(crops))
    return [crops[i] for i in np.sort(order[:most])]


def read_faces(folders: list[Path], target: Path, most: int) -> Faces:
    """Pack at most `most` pictures of each folder: what thresholds and impostors go by.

    Raises:
        EdgefaceError: there are no people, too few, or nobody has two pictures.
    """
    crops = [crop for folder in folders for crop in some(list_crops(folder, set()), most)]
    if not crops or not pack(crops, target):
        raise EdgefaceError(f"{', '.join(map(str, folders))}: no pictures there")
    data = open_pack(target)
    known = np.flatnonzero(data.identity >= 0)
    order = np.random.default_rng(0).permutation(known)
    rows = np.sort(order[:most])
    if not len(known):
        raise EdgefaceError(f"{folders[0]} has no folder per person: put pictures in folders")
    if np.bincount(data.identity[rows]).max() < 2:
        raise EdgefaceError("nobody has two pictures: threshold and input cannot be told")
    return Faces(target, data, rows)


def write_float(net: Net, path: Path) -> None:
    """The float file of a network that takes `image`."""
    net = copy.deepcopy(net)
    split_prelus(net)
    unit(net)
    onnx.save(net.model(half=True, outputs=("embedding", "norm")), str(path))


def write_int8(net: Net, path: Path, images: NDArray[np.uint8]) -> None:
    """The INT8 files, for any runtime and for OpenVINO, calibrated on crops."""
    model = quantized(net, to_input(images))
    onnx.save(model, str(path))
    save(ov.Core().read_model(str(path)), path.with_suffix(".xml"), preferred=True, half=False)


def misses(
    files: list[Path], kind: str, reference: Floats, images: NDArray[np.uint8]
) -> tuple[dict[str, float], list[str]]:
    """How near files are to the `reference` rows of pictures, and in which runtimes they miss their
    budget."""
    budget, figures, found = BUDGETS[kind], dict[str, float](), []
    for file in files:
        for runtime in runtimes(file):
            cosine = (by_file(file, runtime, images, 8) * reference).sum(1)
            mean, worst = float(cosine.mean()), float(cosine.min())
            figures |= {f"{file.name}.{runtime}.mean": mean, f"{file.name}.{runtime}.min": worst}
            if mean < budget.mean - ROUNDING or worst < budget.worst - ROUNDING:
                found.append(f"{file.name} in {runtime}: cosine {mean:.5f}, worst {worst:.5f}")
    return figures, found


def adopt(args: argparse.Namespace, work: Path) -> list[str]:
    """Make the files and cards in `work`; the names of the models."""
    foreign = open_foreign(args.file)
    faces = read_faces(args.faces, work / "faces", args.most)
    some, people = faces.images(CHECKED, 1), faces.rows
    spec, scores = find(foreign, np.asarray(faces.data.images[people]), faces.data.identity[people])
    (way, best), (other, second), *_ = scores.items()
    print(f"adopt: wants {way} (agreement {best:.2f}; {other}: {second:.2f})", file=sys.stderr)
    net = Net(foreign.model, foreign.output, foreign.width)
    normalise(net)
    feed(net, spec)
    reference, about = foreign.embed(some, spec), source(args, foreign, way, scores)

    def carded(path: Path, kind: str, near: dict[str, float]) -> ModelCard:
        return card_for(path, kind, faces, args.terms, about | {"cosine_to_original": _plain(near)})

    path = work / f"{args.name}.onnx"
    write_float(net, path)
    near, missed = misses([path], "float", reference, some)
    if missed:
        raise EdgefaceError(f"the rewritten file says something else: {'; '.join(missed)}")
    found = [carded(path, "float", near)]
    if not args.float_only:
        path = work / f"{args.name}-int8.onnx"
        write_int8(net, path, faces.images(CALIBRATED, 2))
        near, missed = misses([path, path.with_suffix(".xml")], "adopted", reference, some)
        card = carded(path, "int8", near)
        if (lost := 100 * (tar_of(found[0]) - tar_of(card))) > BUDGETS["adopted"].tar:
            missed.append(f"TAR at FAR 1e-4 {lost:.1f} points lower")
        if missed:
            print(f"adopt: INT8 is left out: {'; '.join(missed)}", file=sys.stderr)
        else:
            found.append(card)
    for card in found:
        write_card(card)
    impostors(faces, [card.path for card in found])
    return [card.name for card in found]


def tar_of(card: ModelCard) -> float:
    """TAR at FAR 1e-4 of the user's people."""
    metrics = card.about["metrics"]
    assert isinstance(metrics, dict)
    value = metrics["tar_at_far_1e-4"]
    assert isinstance(value, float)
    return value


def source(
    args: argparse.Namespace, foreign: Foreign, way: str, scores: dict[str, float]
) -> dict[str, Json]:
    """What the card says of where the model came from."""
    return {
        "backbone": args.file.stem,
        "source": {
            "file": args.file.name,
            "sha256": digest(args.file),
            "terms": args.terms,
            "output": foreign.output,
            "wants": way,
            "agreement": {name: round(score, 3) for name, score in scores.items()},
        },
    }


def card_for(path: Path, kind: str, faces: Faces, terms: str, about: dict[str, Json]) -> ModelCard:
    """The card of a file."""
    file = path.with_suffix(".xml") if kind == "int8" else path

    def embed(images: NDArray[np.uint8]) -> Floats:
        return by_file(file, "openvino", images, 8)

    found = measure(faces.data, embed, faces.rows, "of the user's faces")
    told: dict[str, Json] = {
        "bytes": path.stat().st_size,
        "precision": PRECISIONS[kind],
        **about,
        "metrics": {name.removeprefix("held_out_"): v for name, v in found.metrics.items()},
    }
    return card_of(path, found, license=terms, about=told)


def impostors(faces: Faces, models: list[Path]) -> None:
    """Fit an impostor model to each, where there are sets enough to tell how far sets differ."""
    sets = {name.partition("/")[0] for name in faces.data.names}
    if len(sets) < SETS:
        print(
            f"adopt: no impostor model: it takes {SETS} folders of different people, there are "
            f"{len(sets)}; calibrate with pictures of your own",
            file=sys.stderr,
        )
        return
    for model in models:
        found, _ = fit_to(Embedder.load(model), faces.path, most=len(faces.rows))
        found.save(model.with_suffix(".cohort.npz"))


def _plain(figures: dict[str, float]) -> dict[str, Json]:
    return {name: round(value, 5) for name, value in figures.items()}


def terms_of(args: argparse.Namespace) -> str:
    """The terms given, or asked for.

    Raises:
        EdgefaceError: there is nobody to ask, or no answer.
    """
    text: str = args.terms or ""
    if not text and sys.stdin.isatty():
        text = input(f"Under which terms may {args.file.name} be used? ")
    if not text.strip():
        raise EdgefaceError(f"the terms of {args.file.name} are needed for its card: give --terms")
    return text.strip()


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export adopt", description=__doc__)
    parser.add_argument("file", type=Path, help="ONNX embedder of 112×112 crops")
    parser.add_argument(
        "--faces", type=Path, nargs="+", required=True, help="folders or zips of people's crops"
    )
    parser.add_argument("--terms", help="the licence of the file, for the card; else asked for")
    parser.add_argument("--name", help="of the model; default: the file's")
    parser.add_argument("--out", type=Path, help="default: $EDGEFACE_HOME/models")
    parser.add_argument("--most", type=int, default=3000, help="faces that thresholds go by")
    parser.add_argument("--float-only", action="store_true", help="make no INT8")
    return parser


def main(argv: list[str]) -> int:
    args = arguments().parse_args(argv)
    home = os.environ.get("EDGEFACE_HOME")
    args.out = args.out or (Path(home) / "models" if home else None)
    if args.out is None:
        print("adopt: give --out FOLDER, or set EDGEFACE_HOME", file=sys.stderr)
        return 2
    for path in (args.file, *args.faces):
        if not path.exists():
            print(f"adopt: {path} does not exist", file=sys.stderr)
            return 2
    args.name = args.name or args.file.stem
    args.terms = terms_of(args)
    with tempfile.TemporaryDirectory(prefix="edgeface-adopt-") as folder:
        names = adopt(args, Path(folder))
        install(Path(folder), args.out, names)
    for name in names:
        print(args.out / f"{name}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
