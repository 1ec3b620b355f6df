"""`python -m export align FOLDER --out ALIGNED`: aligned crops of ordinary pictures.

The largest face of every picture, found by the shipped detector, is cut to 112×112 and written
under the same name as PNG; sub-folders, one per person, stay. Pictures without a face and files
that are no pictures are named on stderr and left out. What is there already is not done again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface import images
from edgeface.alignment import align
from edgeface.atomic import replacing
from edgeface.detect import Detector
from edgeface.errors import EdgefaceError, ImageError


def crop_of(detector: Detector, picture: images.Source) -> NDArray[np.uint8] | None:
    """(112, 112, 3) uint8 BGR of the largest face, None where there is none. ImageError for what is
    no picture."""
    image = images.read(picture)
    faces = detector.search(image)
    if not faces:
        return None
    largest = max(faces, key=lambda face: float(np.prod(face.box[2:] - face.box[:2])))
    return np.asarray(align(image, [largest])[0], np.uint8)


def align_folder(detector: Detector, folder: Path, out: Path) -> tuple[int, int]:
    """Write the crops of a folder; how many there are now, and how many pictures have none."""
    files = sorted(
        file for file in folder.rglob("*")
        if file.suffix.lower() in images.SUFFIXES and out not in file.parents
    )  # fmt: skip
    if not files:
        raise EdgefaceError(f"{folder} holds no pictures")
    there, without = 0, 0
    for file in files:
        target = out / file.relative_to(folder).parent / f"{file.name}.png"
        if not target.exists():
            try:
                crop = crop_of(detector, file)
            except ImageError as error:
                print(f"align: {error}", file=sys.stderr)
                crop = None
            else:
                if crop is None:
                    print(f"align: no face in {file}, left out", file=sys.stderr)
            if crop is None:
                without += 1
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as stream:
                stream.write(cv2.imencode(".png", crop)[1].tobytes())
        there += 1
    return there, without


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export align", description=__doc__)
    parser.add_argument("folder", type=Path, help="pictures, in one sub-folder per person or flat")
    parser.add_argument("--out", type=Path, required=True, help="folder for the crops")
    parser.add_argument("--detector", default="detector", help="name or file")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    if not args.folder.is_dir():
        raise EdgefaceError(f"{args.folder} is not a folder")
    detector = Detector.load(args.detector, threads=args.threads)
    there, without = align_folder(detector, args.folder, args.out)
    print(f"align: {there} crops in {args.out}, {without} pictures left out", file=sys.stderr)
    return 0 if there else 1
