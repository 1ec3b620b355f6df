"""What `export adopt` makes of a foreign embedder: accuracy, speed and a clip, beside the file as
it came.

Adopts FILE with the labelled crops of the data folder, then LFW View 2 of the file as it came, of
the float and of the INT8 model; faces per second at batch 1 on one thread, in turns, and how many
times as fast the adopted ones are as the file as it came in the same runtime; and
`edgeface identify`'s path on the clip of the pipeline bench: frames with the right name and with a
wrong one.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.embed import by_onnxruntime, by_openvino, measure, pictures
from bench.pipeline_clips import Clip, clips, judge
from edgeface.embed import Embedder
from edgeface.identify import Identifier
from edgeface.models import InputSpec, ModelCard, load_card
from edgeface.video import frames
from export import adopt
from export.contract import open_foreign, ways
from export.protocols.embedders import teachers
from export.protocols.lfw import read_lfw, verify

Figures = dict[str, float | str | None]
FACES = ("faces/celeba", "pins/train", "faces/fiw_families.zip")  # of the data folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--file", type=Path, help="ONNX embedder; default: w600k_mbf")
    parser.add_argument("--faces", type=Path, nargs="+", help="folders of people's crops")
    parser.add_argument("--work", type=Path, help="keep the adopted models in this folder")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--folds", type=int, default=10, help="of LFW")


def made(file: Path, args: argparse.Namespace, folder: Path) -> list[ModelCard]:
    """The cards of the models adopted, float first; those in `folder` are taken as they are."""
    if not (folder / f"{file.stem}.json").exists():
        faces = args.faces or [args.shared / "data" / name for name in FACES]
        words = [str(file), "--faces", *map(str, faces), "--out", str(folder)]
        adopt.main([*words, "--terms", "research", *(["--most", "150"] if args.quick else [])])
    names = [n for n in (file.stem, f"{file.stem}-int8") if (folder / f"{n}.json").exists()]
    return [load_card(folder / f"{name}.onnx") for name in names]


def accuracy(
    file: Path, spec: InputSpec, found: dict[str, ModelCard], args: argparse.Namespace
) -> Figures:
    """LFW, percent, and how near the adopted models are to the file as it came."""
    images, index, same, fold = read_lfw(
        args.shared / "data" / "lfw", folds=2 if args.quick else 10
    )
    if args.quick:
        used, places = np.unique(index[::24], return_inverse=True)
        images, index, same, fold = images[used], places.reshape(-1, 2), same[::24], fold[::24]
    print("adopt: LFW, the file as it came", file=sys.stderr, flush=True)
    before = open_foreign(file).embed(images, spec)
    out: Figures = {"lfw.original": verify(before, index, same, fold)["lfw"]}
    for name, card in found.items():
        print(f"adopt: LFW, {card.name}", file=sys.stderr, flush=True)
        rows = Embedder.load(card.path)(images)
        cosine = (rows * before).sum(1)
        out |= {f"lfw.{name}": verify(rows, index, same, fold)["lfw"]}
        out |= {
            f"cosine.{name}.mean": float(cosine.mean()),
            f"cosine.{name}.min": float(cosine.min()),
        }
    return out


def speed(
    file: Path, spec: InputSpec, found: dict[str, ModelCard], args: argparse.Namespace
) -> Figures:
    """Faces per second and ratios to the file as it came, batch 1, one thread."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    faces = pictures(args.shared)
    fed = spec.tensor(faces.transpose(0, 2, 3, 1)[..., ::-1].astype(np.uint8))
    out: Figures = {}
    for runtime, make in (("onnxruntime", by_onnxruntime), ("openvino", by_openvino)):
        runs = {"original": make(file, 1, 1, fed)}
        runs |= {n: make(card.file_for(runtime), 1, 1, faces) for n, card in found.items()}
        rounds = 5 if args.quick else args.rounds
        seconds = measure(runs, 1, rounds, time.process_time)
        for name, value in seconds.items():
            out[f"speed.{runtime}.{name}.b1.fps"] = 1 / value
            if name != "original":
                out[f"speed.{runtime}.{name}.b1.ratio_to_original"] = seconds["original"] / value
    return out


def identified(clip: Clip, card: ModelCard, most: int | None) -> tuple[int, int]:
    """Of the first `most` frames of a clip, those in which somebody enrolled has the right name,
    and those with a wrong one."""
    seen: list[tuple[object, ...]] = []
    width = 640
    with tempfile.TemporaryDirectory() as folder:
        gallery = Path(folder) / "adopted.gallery"
        with Identifier.open(gallery, embedder=card.path) as identifier:
            for picture in clip.people:
                identifier.enroll(picture.stem, [picture], policy="largest")
            for frame in itertools.islice(frames(clip.file), most):
                width = frame.image.shape[1]
                identifier.step(frame)
                seen += [(frame.index, *s.face.box, s.decision.name) for s in identifier.sightings]
    return judge(clip, seen, width)


def figures(args: argparse.Namespace) -> Figures:
    """Keys `adopt.NAME.*`."""
    file = args.file or teachers(args.shared)["w600k_mbf"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.work or Path(temporary)
        cards = made(file, args, folder)
        found = {"int8" if card.name.endswith("-int8") else "fp32": card for card in cards}
        told = cards[0].about["source"]
        assert isinstance(told, dict)
        spec = ways(open_foreign(file))[str(told["wants"])]
        out = accuracy(file, spec, found, args)
        clip = clips(args.shared)[0]
        for name, card in found.items():
            right, wrong = identified(clip, card, 60 if args.quick else None)
            out |= {f"clip.correct.{name}": float(right), f"clip.wrong.{name}": float(wrong)}
        out |= speed(file, spec, found, args)
    return {f"adopt.{file.stem}.{key}": value for key, value in out.items()}
