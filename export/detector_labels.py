"""What several detectors agree on in the training scenes: `python -m export detector-labels`.

A face is what two of three detectors see: YuNet (`annotations.jsonl`), yolov5n-face
(`yolov5n_face.jsonl`) and SCRFD, which runs here, at three scales and mirrored. Its box is the mean
of theirs; its points are the mean of yolov5n-face's and SCRFD's alone, because YuNet's are twice as
far from hand-labelled ones. What only one of them sees is neither a face nor background: the
training leaves it out. Aligned crops are looked at by SCRFD in a black frame.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgeface.detect import Detector, overlaps, suppress
from edgeface.detect.grid import STRIDES
from export.scenes import Image, backgrounds, read

AGREE_IOU = 0.45  # two detectors' boxes mean one face; theirs differ by a tenth at the forehead
SCORE = 0.3  # SCRFD's from which a box counts as its opinion
SINGLE_PASS = 0.5  # SCRFD's score from which one of its passes is enough
PASSES = ((640, False), (640, True), (320, False))  # longer side px, mirrored
ENLARGE = 2.0  # a small picture is enlarged by at most this
APART = 0.12  # mean distance of two detectors' points, share of the box side, that voids them
TOUCHING = 0.1  # overlap from which a box may be a face that others saw elsewhere
ALARMING = 0.1  # score of a detector's false alarms that are worth learning from
MARGIN = 40  # px of black around an aligned crop of 112
MIRRORED = [1, 0, 2, 4, 3]  # the order of five points in a mirrored picture


@dataclass(frozen=True, slots=True, eq=False)
class Opinion:
    """One detector's face: `box` (4,) xyxy px, `points` (5, 2) px, `score`."""

    box: NDArray[np.float32]
    points: NDArray[np.float32]
    score: float


class Scrfd:
    """An SCRFD file with landmarks (Guo et al., ICLR 2022), in insightface's layout: three strides,
    two anchors per cell, distances from the cell's corner in strides."""

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, image: Image, threshold: float = SCORE) -> list[Opinion]:
        """Faces of one (H, W, 3) uint8 BGR picture, best first, at the picture's own scale."""
        h, w = (-(-n // 32) * 32 for n in image.shape[:2])
        planes = np.zeros((1, 3, h, w), np.float32)
        rgb = image[..., ::-1].transpose(2, 0, 1).astype(np.float32)
        planes[0, :, : image.shape[0], : image.shape[1]] = (rgb - 127.5) / 128
        out = self._session.run(None, {self._input: planes})
        rows = []
        for k, stride in enumerate(STRIDES):
            score, box, points = out[k][:, 0], out[k + 3] * stride, out[k + 6] * stride
            keep = np.flatnonzero(score >= threshold)
            cell = keep // 2
            corner = np.stack([cell % (w // stride), cell // (w // stride)], 1) * stride
            low, high = corner - box[keep, :2], corner + box[keep, 2:]
            moved = points[keep].reshape(-1, 5, 2) + corner[:, None]
            rows.append(np.column_stack([score[keep], low, high, moved.reshape(-1, 10)]))
        found = np.concatenate(rows).astype(np.float32)
        found = found[np.argsort(-found[:, 0], kind="stable")]
        leaders = [group[0] for group in suppress(found[:, 1:5], 0.4)]
        return [Opinion(r[1:5], r[5:].reshape(5, 2), float(r[0])) for r in found[leaders]]


def several(detector: Scrfd, image: Image, passes: Sequence[tuple[int, bool]]) -> list[Opinion]:
    """The mean of what passes of one detector at several scales and mirrored say of a picture."""
    height, width = image.shape[:2]
    sights: list[list[Opinion]] = []
    for side, mirror in passes:
        ratio = min(side / max(height, width), ENLARGE)
        size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA if ratio < 1 else 1)
        scale = np.array([width / size[0], height / size[1]], np.float32)
        found = detector(np.asarray(picture[:, ::-1] if mirror else picture, np.uint8))
        sights.append([_back(o, scale, width if mirror else None) for o in found])
    faces = []
    for group in groups(sights):
        score = max(o.score for o in group.values())
        if len(group) > 1 or score >= SINGLE_PASS:
            opinions = list(group.values())
            faces.append(Opinion(_mean(opinions, "box"), _mean(opinions, "points"), score))
    return faces


def _back(face: Opinion, scale: NDArray[np.float32], width: int | None) -> Opinion:
    """A face of a scaled, perhaps mirrored picture in pixels of the picture `width` px wide."""
    box, points = face.box * np.tile(scale, 2), face.points * scale
    if width is not None:
        box = np.array([width - box[2], box[1], width - box[0], box[3]], np.float32)
        points = np.column_stack([width - points[:, 0], points[:, 1]])[MIRRORED]
    return Opinion(box, points.astype(np.float32), face.score)


def _mean(opinions: Sequence[Opinion], field: str) -> NDArray[np.float32]:
    weights = np.array([o.score for o in opinions])
    values = np.stack([getattr(o, field) for o in opinions])
    return np.asarray(np.tensordot(weights / weights.sum(), values, 1), np.float32)


def groups(sights: Sequence[Sequence[Opinion]]) -> Iterator[dict[int, Opinion]]:
    """Opinions of several observers that mean one face: observer number to its opinion."""
    flat = [(k, o) for k, opinions in enumerate(sights) for o in opinions]
    flat.sort(key=lambda pair: -pair[1].score)
    if flat:
        boxes = np.stack([o.box for _, o in flat])
        for rows in suppress(boxes, AGREE_IOU):
            group: dict[int, Opinion] = {}
            for row in rows:  # best first: of one observer's overlapping boxes the best counts
                group.setdefault(*flat[row])
            yield group


def agree(yunet: list[Opinion], yolo: list[Opinion], scrfd: list[Opinion]) -> dict:
    """A scene's label: `faces` with `box`, `landmarks` or None where the two that measure points
    disagree, and `ignore`, the boxes that one detector alone sees."""
    label: dict[str, list] = {"faces": [], "ignore": []}
    for group in groups([yunet, yolo, scrfd]):
        if len(group) < 2:
            label["ignore"] += [np.round(o.box, 1).tolist() for o in group.values()]
            continue
        box = np.mean([o.box for o in group.values()], axis=0)
        measured = [group[k].points for k in (1, 2) if k in group]
        points = np.mean(measured, axis=0)
        side = float(np.sqrt(max(np.prod(box[2:] - box[:2]), 1e-6)))
        apart = np.linalg.norm(measured[0] - measured[-1], axis=1).mean() / side
        exact = None if apart > APART else np.round(points, 2).tolist()
        face = {"box": np.round(box, 2).tolist(), "landmarks": exact, "seen_by": len(group)}
        label["faces"].append(face)
    return label


def recorded(file: Path) -> dict[str, list[Opinion]]:
    """Picture to opinions of a file of one JSON line per picture."""
    found = {}
    for line in file.read_text().splitlines():
        record = json.loads(line)
        found[record["file"]] = [
            Opinion(np.array(f["box"], np.float32), np.array(f["landmarks"], np.float32),
                    float(f["score"]))
            for f in record["faces"]
        ]  # fmt: skip
    return found


def crop_files(faces: Path) -> list[str]:
    """Every aligned crop below `faces`, in folders and in zips (`x.zip/name`), in a fixed order."""
    names = [str(p.relative_to(faces)) for p in faces.rglob("*.webp")]
    for archive in faces.glob("*.zip"):
        with zipfile.ZipFile(archive) as opened:
            names += [f"{archive.name}/{n}" for n in opened.namelist() if n.endswith(".webp")]
    return sorted(names)


@cache
def _opened(archive: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(archive)  # its table of contents takes as long as fifty pictures


def read_crop(faces: Path, name: str) -> Image:
    """The crop that `crop_files` calls `name`."""
    head, _, tail = name.partition("/")
    if not head.endswith(".zip"):
        return read(faces / name)
    raw = np.frombuffer(_opened(faces / head).read(tail), np.uint8)
    return np.asarray(cv2.imdecode(raw, cv2.IMREAD_COLOR), np.uint8)


def label_scenes(data: Path, scrfd: Scrfd) -> Iterator[dict]:
    """One label per line of `annotations.jsonl`, in its order."""
    folder = data / "scenes"
    yunet, yolo = (recorded(folder / f) for f in ("annotations.jsonl", "yolov5n_face.jsonl"))
    for name, seen in yunet.items():
        theirs = several(scrfd, read(folder / name), PASSES)
        yield {"file": name, **agree(seen, yolo.get(name, []), theirs)}


def label_crops(data: Path, scrfd: Scrfd, names: Sequence[str]) -> Iterator[dict]:
    """One label per crop that shows one face: its box and points in the crop's pixels."""
    for name in names:
        crop = read_crop(data / "faces", name)
        framed = cv2.copyMakeBorder(crop, *[MARGIN] * 4, cv2.BORDER_CONSTANT)
        side = framed.shape[0]
        found = several(scrfd, np.asarray(framed, np.uint8), ((side, False), (side, True)))
        if len(found) == 1 and found[0].score >= SINGLE_PASS:
            box, points = found[0].box - MARGIN, found[0].points - MARGIN
            box = np.clip(box, 0, crop.shape[0])
            face = {"box": np.round(box, 2).tolist(), "landmarks": np.round(points, 2).tolist()}
            yield {"file": name, "faces": [face], "ignore": []}


def label_alarms(
    data: Path, scrfd: Scrfd, detector: Detector, scenes: Iterable[dict]
) -> Iterator[dict]:
    """Where `detector` sees a face that nobody else does, per labelled scene and per background
    (`background/NAME`, with what SCRFD sees there to ignore)."""
    folder = data / "scenes"
    for label in scenes:
        seen = [f["box"] for f in label["faces"]] + label["ignore"]
        yield {
            "file": label["file"],
            "alarms": alarms(detector, read(folder / label["file"]), seen),
        }
    for path in backgrounds(data):
        image = read(path)
        if alarms(detector, image, []):
            seen = [np.round(o.box, 1).tolist() for o in several(scrfd, image, PASSES)]
            found = alarms(detector, image, seen)
            yield {"file": f"background/{path.name}", "ignore": seen, "alarms": found}


def alarms(detector: Detector, image: Image, seen: list[list[float]]) -> list[list[float]]:
    """Boxes of `detector` that touch none of `seen`."""
    found = np.array([f.box for f in detector(image)], np.float32).reshape(-1, 4)
    others = np.array(seen, np.float32).reshape(-1, 4)
    return np.round(found[(overlaps(found, others) < TOUCHING).all(1)], 1).tolist()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export detector-labels", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with scenes/ and faces/")
    parser.add_argument("--scrfd", type=Path, required=True, help="SCRFD ONNX with landmarks")
    parser.add_argument("--out", type=Path, default=Path("runs/detector"))
    parser.add_argument("--detector", default="detector", help="whose false alarms are labelled")
    parser.add_argument("--crops", type=int, default=9000, help="aligned crops to label")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    scrfd = Scrfd(args.scrfd)
    ours = Detector.load(args.detector, threads=1, score_threshold=ALARMING)
    names = crop_files(args.data / "faces")
    rng = np.random.default_rng(args.seed)
    chosen = [names[i] for i in rng.permutation(len(names))[: args.crops]]
    scenes = list(write(label_scenes(args.data, scrfd), args.out / "scenes.jsonl"))
    for _ in write(label_alarms(args.data, scrfd, ours, scenes), args.out / "alarms.jsonl"):
        pass
    for _ in write(label_crops(args.data, scrfd, chosen), args.out / "crops.jsonl"):
        pass
    return 0


def write(labels: Iterable[dict], file: Path) -> Iterator[dict]:
    """Hand `labels` on while writing them, one JSON line each."""
    with file.open("w") as stream:
        for count, label in enumerate(labels, 1):
            stream.write(json.dumps(label) + "\n")
            if count % 500 == 0:
                print(f"{file.name}: {count} pictures", file=sys.stderr, flush=True)
            yield label


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
