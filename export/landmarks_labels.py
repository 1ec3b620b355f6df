"""Five points for a pack's aligned crops: `python -m export landmarks-labels`.

SCRFD and yolov5n-face each look at a crop in a black frame, one of them at it mirrored; where they
agree the points are their mean. One JSON line per crop that both see alike, in the crop's pixels;
lines already written stay, so that a run can be stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from edgeface.alignment import TEMPLATE
from edgeface.types import Array
from export.data import open_pack
from export.detector_labels import MIRRORED, Opinion, Scrfd
from export.scenes import Image
from export.yolo import Yolo

MARGIN = 40  # px of black around a crop of 112: both detectors expect to see the whole head
SCORE = 0.5  # of both, from which a crop is labelled
APART = 5.0  # px of the crop, mean distance of both detectors' points that voids them; eyes are 35
# Both detectors count from the edge of the first pixel, nearly: what a picture and its mirror say
# differs by twice this (mean of 79 crops). Points here are of pixel centres, as OpenCV's warps are.
EDGE = 0.37  # px
OFF = 16.0  # px, mean distance from where the crop was aligned to that voids them

Detect = Callable[[Image], list[Opinion]]


def seen(detect: Detect, crop: Image, *, mirror: bool) -> Array | None:
    """The points (5, 2) of the best face near the template, in the crop's pixels."""
    shown = np.ascontiguousarray(crop[:, ::-1]) if mirror else crop
    framed = np.asarray(cv2.copyMakeBorder(shown, *[MARGIN] * 4, cv2.BORDER_CONSTANT), np.uint8)
    for face in detect(framed):
        points = face.points - MARGIN - EDGE
        if mirror:
            points = np.column_stack([crop.shape[1] - 1 - points[:, 0], points[:, 1]])[MIRRORED]
        if face.score >= SCORE and _apart(points, TEMPLATE) < OFF:
            return np.asarray(points, np.float32)
    return None


def _apart(a: Array, b: Array) -> float:
    return float(np.linalg.norm(a - b, axis=1).mean())


def agreed(detectors: Sequence[Detect], crop: Image) -> Array | None:
    """The mean of two detectors' points, the second one's of the mirrored crop; None where they
    disagree or one sees no face."""
    first = seen(detectors[0], crop, mirror=False)
    second = None if first is None else seen(detectors[1], crop, mirror=True)
    if first is None or second is None or _apart(first, second) > APART:
        return None
    return np.asarray((first + second) / 2, np.float32)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export landmarks-labels", description=__doc__)
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--scrfd", type=Path, required=True, help="SCRFD ONNX with landmarks")
    parser.add_argument("--yolo", type=Path, required=True, help="folder of yolov5n_face.ncnn.*")
    parser.add_argument("--out", type=Path, required=True, help="labels, one JSON line a crop")
    parser.add_argument("--crops", type=int, default=20000, help="drawn from the pack by the seed")
    parser.add_argument("--skip", type=Path, help="names of test pictures, one a line")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    yolo = Yolo.load(args.yolo)
    if yolo is None:
        return 2
    detectors = (Scrfd(args.scrfd), yolo)
    data = open_pack(args.pack)
    skip = set(args.skip.read_text().split()) if args.skip else set()
    rows = np.random.default_rng(args.seed).permutation(len(data.images))[: args.crops]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    done = args.out.read_text().splitlines() if args.out.is_file() else []
    start = json.loads(done[-1])["number"] + 1 if done else 0
    with args.out.open("a") as stream:
        for number, row in enumerate(rows[start:], start):
            path = data.paths[row]
            if Path(path).stem in skip:
                continue
            points = agreed(detectors, np.asarray(data.images[row]))
            if points is not None:
                label = {
                    "number": number,
                    "file": path,
                    "landmarks": np.round(points.astype(float), 2).tolist(),
                }
                stream.write(json.dumps(label) + "\n")
            if number % 1000 == 0:
                stream.flush()
                print(f"{number} of {len(rows)} crops", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
