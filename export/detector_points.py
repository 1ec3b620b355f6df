"""Fit how a detector reads landmarks closely: `python -m export detector-points`.

Every labelled training face is looked at as `Detector.refine` would after a first look of the
usual error; each rule of the cascade is a ridge regression from the network's inner maps, at the
points as the rules before left them, to what is missing. A few minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray

from edgeface.detect import Detector, looks, points
from edgeface.detect.points import Cascade
from edgeface.models import digest, load_card, write_card
from edgeface.runtime import open_session
from edgeface.types import Array, Face, Image
from export.detector_onnx import with_near
from export.disguise import disguise
from export.scenes import MIRRORED, WORKING_SIDE, Picture, Rng, degrade, read, recolour, split

SMALLEST = 20.0  # px, side of the smallest face that is learnt from
LOOKS = 3  # at every face
STEPS = 2
# Share of the features' mean variance. Of .016, .16 and .8, with 6,400 looks, .16 left the least
# error on 100 scenes kept back (mean .098, .093, .098; .132 without rules).
RIDGE = 0.16


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """One patch: the maps the network made of it, where it saw the points, where they are."""

    maps: dict[str, NDArray[np.float16]]
    seen: Array
    true: Array

    def wide(self) -> dict[str, Array]:
        """The maps in float32."""
        return {name: values.astype(np.float32) for name, values in self.maps.items()}


def shaken(box: Array, landmarks: Array, rng: Rng) -> Face:
    """A labelled face as a first look might give it: box off by a few percent, tilt by degrees."""
    side = float(np.sqrt(np.prod(box[2:] - box[:2])))
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * np.exp(rng.normal(0, 0.08))
    middle = middle + rng.normal(0, 0.05, 2) * side
    turn = np.deg2rad(rng.normal(0, 7) if rng.random() < 0.8 else rng.uniform(-30, 30))
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    centre = landmarks.mean(0)
    turned = (landmarks - centre) @ matrix.T + centre
    rough = np.concatenate([middle - half, middle + half])
    return Face(rough.astype(np.float32), turned.astype(np.float32), 1.0)


def look(detector: Detector, patch: Image, true: Array) -> Look | None:
    """What the network makes of a patch; None where it sees no face at its middle."""
    maps = detector.maps(patch)
    faces = detector.read(maps, patch, 0.1)
    middle = np.full(2, looks.PATCH / 2)
    near = [f for f in faces if (f.box[:2] < middle).all() and (middle < f.box[2:]).all()]
    if not near:
        return None
    small = {name: maps[name].astype(np.float16) for name in ("near_8", "near_16")}
    return Look(small, near[0].landmarks, true)


def gather(
    detector: Detector, folder: Path, labels: Sequence[dict[str, Any]], rng: Rng, *, clean: bool
) -> Iterator[Look]:
    """Looks at every face of labelled scenes, each changed as training pictures are."""
    for label in labels:
        picture = Picture.of(read(folder / label["file"]), label).shrunk(2 * WORKING_SIDE)
        for box, landmarks in zip(picture.boxes, picture.points, strict=True):
            if not np.isfinite(landmarks).all() or np.prod(box[2:] - box[:2]) < SMALLEST**2:
                continue
            for _ in range(1 if clean else LOOKS):
                image = picture.image
                if not clean and rng.random() < 0.3:
                    image = disguise(replace(picture, image=image), rng)
                face = shaken(box, landmarks, rng)
                patch, matrix = looks.patch(image, face)
                true = landmarks @ matrix[:, :2].T + matrix[:, 2]
                if not clean and rng.random() < 0.5:
                    patch = np.ascontiguousarray(patch[:, ::-1])
                    true = np.column_stack([looks.PATCH - 1 - true[:, 0], true[:, 1]])[MIRRORED]
                if not clean:
                    patch = degrade(recolour(patch, rng), rng)
                found = look(detector, patch, true.astype(np.float32))
                if found is not None:
                    yield found


def fit(data: Sequence[Look], *, steps: int = STEPS, ridge: float = RIDGE) -> Cascade:
    """The cascade that brings the points seen to the true ones."""
    seen = np.stack([d.seen for d in data])
    true = np.stack([d.true for d in data])
    weights, biases = [], []
    for _ in range(steps):
        features = np.stack([points.sample(d.wide(), p) for d, p in zip(data, seen, strict=True)])
        missing = ((true - seen) / points.UNIT).reshape(len(data), 10)
        mean, aim = features.mean(0), missing.mean(0)
        centred = (features - mean).astype(np.float64)
        gram = centred.T @ centred
        gram += ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
        weight = np.linalg.solve(gram, centred.T @ (missing - aim))
        weights.append(weight)
        biases.append(aim - mean @ weight)
        seen = seen + points.UNIT * (features @ weight + biases[-1]).reshape(-1, 5, 2)
    return Cascade(np.stack(weights).astype(np.float32), np.stack(biases).astype(np.float32))


def error(data: Sequence[Look], cascade: Cascade | None) -> tuple[float, float]:
    """Mean and median point distance, share of the eye distance, before or after the rules."""
    distances = []
    for d in data:
        got = d.seen if cascade is None else cascade(d.wide(), d.seen)
        eyes = max(float(np.linalg.norm(d.true[0] - d.true[1])), 0.2 * looks.MEASURED)
        distances.append(float(np.linalg.norm(got - d.true, axis=1).mean()) / eyes)
    return float(np.mean(distances)), float(np.median(distances))


def write(model: Path, cascade: Cascade) -> None:
    """Put the inner maps out of a model file, its card in step, and the rules beside it."""
    blob = with_near(onnx.load(str(model))).SerializeToString()
    card = load_card(model, "detection")
    model.write_bytes(blob)
    sha = digest(model)
    write_card(replace(card, digest=sha, about={**card.about, "bytes": len(blob)}))
    halves = {"weights": cascade.weights.astype(np.float16)}
    halves["biases"] = cascade.biases.astype(np.float16)
    np.savez(model.with_suffix(".points.npz"), model=sha, **halves)  # type: ignore[arg-type]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export detector-points", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with scenes/")
    parser.add_argument("--labels", type=Path, required=True, help="folder of detector-labels")
    parser.add_argument("--model", type=Path, default=Path("edgeface/weights/detector.onnx"))
    parser.add_argument("--scenes", type=int, default=800, help="training scenes to look at")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    told = {}
    for line in (args.labels / "scenes.jsonl").read_text().splitlines():
        record = json.loads(line)
        told[record["file"]] = record
    folder = args.data / "scenes"
    train, dev, _ = split(folder / "annotations.jsonl")
    with_maps = args.labels / args.model.name  # no rules lie beside it
    with_maps.write_bytes(with_near(onnx.load(str(args.model))).SerializeToString())
    card = replace(load_card(args.model, "detection"), path=with_maps)
    detector = Detector(open_session(with_maps, runtime="onnxruntime", threads=1), card)
    rng = np.random.default_rng(args.seed)
    data = list(
        gather(detector, folder, [told[r["file"]] for r in train[: args.scenes]], rng, clean=False)
    )
    kept = list(gather(detector, folder, [told[r["file"]] for r in dev], rng, clean=True))
    cascade = fit(data)
    for name, rows in (("training", data), ("kept back", kept)):
        before, after = error(rows, None), error(rows, cascade)
        print(
            f"{name}: {len(rows)} looks, mean {before[0]:.4f} -> {after[0]:.4f}, "
            f"median {before[1]:.4f} -> {after[1]:.4f}",
            file=sys.stderr,
        )
    if error(kept, cascade)[0] >= error(kept, None)[0]:
        print("export: the rules do not help on scenes kept back; nothing written", file=sys.stderr)
        return 1
    write(args.model, cascade)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
