"""Pictures as people bring them: labelled points, close-ups, turned pictures, portraits, people.

Part of `bench detect`; single pictures go through `Detector.search`, as they do in `Identifier`.
LFW originals and the labelled points are test only; no checkpoint is chosen by them.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from edgeface.alignment import align
from edgeface.detect import SURE, Detector, overlaps
from edgeface.embed import Embedder
from edgeface.metrics import tar_at_far
from edgeface.types import Array, Face, Image

Figures = dict[str, float | str | None]
SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of a picture's height that the face's box takes
TURNS = (15, 30, 45, 60, 90, 180)  # degrees
CLOSE_SIDE = 1080  # px
USABLE = 0.5  # cosine to the same picture, undisturbed
PICTURES = 120  # LFW originals per step
FAR = 1e-4  # at which the people of all pairs of pictures are told apart


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


def people(
    looks: Mapping[str, Callable[[Image], list[Face]]],
    embedder: Embedder,
    files: Sequence[Path],
) -> Figures:
    """All pairs of pictures whose folders are people, of whom a picture shows one in its middle:
    how many pairs of one person are accepted at a share `FAR` of the others, percent. Who is not
    found is accepted with nobody. `looks` are keyed by the end of the figure's name."""
    person = np.unique([file.parent.name for file in files], return_inverse=True)[1]
    first, second = np.triu_indices(len(files), 1)
    same = np.equal(person[first], person[second])
    out: Figures = {"detect.people.pictures": float(len(files))}
    for name, look in looks.items():
        rows = np.zeros((len(files), embedder.size), np.float32)
        for row, file in zip(rows, files, strict=True):
            image = np.asarray(cv2.imread(str(file)), np.uint8)
            middle = np.array(image.shape[1::-1], np.float32) * np.float32(0.5)
            there = [f for f in look(image) if _holds(f.box, middle)]
            if there:
                row[:] = embedder(align(image, [max(there, key=lambda f: f.score)]))[0]
        found = np.asarray(rows.any(axis=1))
        similar = np.where(found[first] & found[second], (rows @ rows.T)[first, second], -1.0)
        accepted = tar_at_far(similar.astype(np.float32), same, FAR)
        out[f"detect.people.tar_far1e-4{name}"] = 100 * accepted
        out[f"detect.people.missed{name}"] = float((~found).sum())
    return out
