"""Pictures as people bring them: labelled points, close-ups, turned pictures, portraits, clips.

Part of `bench detect`; single pictures go through `Detector.search`, as they do in `Identifier`.
LFW originals and the labelled points are test only; no checkpoint is chosen by them.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from bench.detect_peers import Yolo
from edgeface.alignment import align
from edgeface.detect import SURE, Detector, overlaps
from edgeface.embed import Embedder
from edgeface.types import Array, Face, Image
from export.detector_labels import AGREE_IOU, Scrfd

Figures = dict[str, float | str | None]
SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of a picture's height that the face's box takes
TURNS = (15, 30, 45, 60, 90, 180)  # degrees
CLOSE_SIDE = 1080  # px
USABLE = 0.5  # cosine to the same picture, undisturbed
PICTURES = 120  # LFW originals per step
CONSENSUS_SIZE = 16.0  # px, side of the smallest face that counts in clips


def best(faces: Sequence[Face]) -> Face | None:
    """The face that `Identifier.verify` takes: the largest sure one, or the surest."""
    sure = [f for f in faces if f.score >= SURE]
    if sure:
        return max(sure, key=lambda f: float(np.prod(f.box[2:] - f.box[:2])))
    return max(faces, key=lambda f: f.score, default=None)


def truth(detector: Detector, data: Path, few: int = 1) -> Figures:
    """Points of `search` and of a call alone against five hand-labelled ones, share of the eye
    distance, on the faces that both find."""
    folder = data / "scenes"
    errors: dict[str, list[float]] = {"": [], "_first_look": []}
    lines = (folder / "landmark_truth_aaf.jsonl").read_text().splitlines()[::few]
    with zipfile.ZipFile(folder / "landmark_truth_aaf.zip") as pictures:
        for line in lines:
            record = json.loads(line)
            raw = np.frombuffer(pictures.read(record["file"]), np.uint8)
            image = np.asarray(cv2.imdecode(raw, cv2.IMREAD_COLOR), np.uint8)
            points = np.array(record["five"], np.float32)
            for key, faces in (("", detector.search(image)), ("_first_look", detector(image))):
                error = [
                    float(np.linalg.norm(f.landmarks - points, axis=1).mean())
                    for f in faces
                    if _holds(f.box, points.mean(0))
                ]
                if error:
                    eyes = float(np.linalg.norm(points[0] - points[1]))
                    errors[key].append(min(error) / eyes)
    out: Figures = {
        f"detect.truth.landmark_error{key}": float(np.mean(values))
        for key, values in errors.items()
    }
    return out | {"detect.truth.found": len(errors[""]) / len(lines)}


def _holds(box: Array, point: Array) -> bool:
    return bool((box[:2] <= point).all() and (point <= box[2:]).all())


def close_up(image: Image, face: Face, share: float) -> Image:
    """A square cut so that the face's box is `share` of its height, enlarged to `CLOSE_SIDE`."""
    side = float(face.box[3] - face.box[1]) / share
    low = (face.box[:2] + face.box[2:]) / 2 - side / 2
    scale = CLOSE_SIDE / side
    matrix = np.array([[scale, 0, -low[0] * scale], [0, scale, -low[1] * scale]])
    out = cv2.warpAffine(image, matrix, (CLOSE_SIDE, CLOSE_SIDE), flags=cv2.INTER_CUBIC,
                         borderMode=cv2.BORDER_REPLICATE)  # fmt: skip
    return np.asarray(out, np.uint8)


def turned(image: Image, degrees: int) -> Image:
    """The picture turned anticlockwise on a canvas that holds all of it."""
    if degrees % 90 == 0:
        return np.ascontiguousarray(np.rot90(image, degrees // 90))
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    size = np.ceil(np.abs(matrix[:, :2]) @ [width, height]).astype(int)
    matrix[:, 2] += size / 2 - [width / 2, height / 2]
    return np.asarray(cv2.warpAffine(image, matrix, [int(v) for v in size]), np.uint8)


def disturbed(detector: Detector, embedder: Embedder, files: Sequence[Path]) -> Figures:
    """Of close-ups and turned pictures of the same face: shares found, and still usable."""
    kinds: dict[str, Callable[[Image, Face], Image]] = {}
    for share in SHARES:
        kinds[f"closeup.{share}"] = lambda i, f, share=share: close_up(i, f, share)  # type: ignore[misc]
    for degrees in TURNS:
        kinds[f"turned.{degrees}"] = lambda i, f, degrees=degrees: turned(i, degrees)  # type: ignore[misc]
    found, usable, count = dict.fromkeys(kinds, 0), dict.fromkeys(kinds, 0), 0
    for file in files:
        image = np.asarray(cv2.imread(str(file)), np.uint8)
        face = best(detector.search(image))
        if face is None:
            continue
        count += 1
        (wanted,) = embedder(align(image, [face]))
        for kind, change in kinds.items():
            picture = change(image, face)
            again = best(detector.search(picture))
            found[kind] += again is not None
            if again is not None:
                (row,) = embedder(align(picture, [again]))
                usable[kind] += float(row @ wanted) >= USABLE
    out: Figures = {}
    for kind in kinds:
        if kind.startswith("closeup"):
            out[f"detect.{kind}.found"] = found[kind] / count
        out[f"detect.{kind}.usable"] = usable[kind] / count
    return out


def portraits(detector: Detector, data: Path, few: int) -> Figures:
    """How many portraits' best face is none that another detector sees, and how many show none."""
    folder, wrong, none = data / "scenes", 0, 0
    seen: dict[str, list[list[float]]] = {}
    for name in ("annotations.jsonl", "yolov5n_face.jsonl"):
        for line in (folder / name).read_text().splitlines():
            record = json.loads(line)
            seen.setdefault(record["file"], []).extend(f["box"] for f in record["faces"])
    files = sorted((folder / "humans72k_logicdev").iterdir())[::few]
    for file in files:
        face = best(detector.search(np.asarray(cv2.imread(str(file)), np.uint8)))
        theirs = np.array(seen.get(f"humans72k_logicdev/{file.name}", []), np.float32)
        if face is None:
            none += 1
        else:
            wrong += not overlaps(face.box[None], theirs.reshape(-1, 4)).max(initial=0) > 0.3
    return {
        "detect.portraits.pictures": float(len(files)),
        "detect.portraits.wrong_best_face": float(wrong),
        "detect.portraits.none": float(none),
    }


def consensus(detector: Detector, frames: Iterable[Image], shared: Path, least: float) -> Figures:
    """Of the faces that yolov5n-face and SCRFD agree on, the share found; of ours with a score of
    `least`, the share that neither sees."""
    yolo = Yolo.load(shared / "models/landmarks")
    if yolo is None:
        return {"detect.consensus.recall": None, "detect.consensus.alone": None}
    scrfd = Scrfd(shared / "models/peers/scrfd/scrfd_2.5g_bnkps.onnx")
    wanted = found = ours = alone = 0
    for frame in frames:
        ratio = min(1.0, detector.max_side / max(frame.shape[:2]))
        image = np.asarray(
            cv2.resize(frame, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA), np.uint8
        )
        faces = [f for f in detector(image) if f.score >= least]
        a, b = (
            np.array([o.box for o in peer(image)], np.float32).reshape(-1, 4)
            for peer in (yolo, scrfd)
        )
        mine = np.array([f.box for f in faces], np.float32).reshape(-1, 4)
        large = np.sqrt(np.prod(a[:, 2:] - a[:, :2], axis=1)) >= CONSENSUS_SIZE
        agreed = a[(overlaps(a, b).max(1, initial=0) > AGREE_IOU) & large]
        wanted += len(agreed)
        found += int((overlaps(agreed, mine).max(1, initial=0) > AGREE_IOU).sum())
        others = np.concatenate([a, b])
        ours += len(mine)
        alone += int((overlaps(mine, others).max(1, initial=0) <= 0.3).sum())
    return {
        "detect.consensus.faces": float(wanted),
        "detect.consensus.recall": found / max(wanted, 1),
        "detect.consensus.alone": alone / max(ours, 1),
    }
