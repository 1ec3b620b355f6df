"""How close does the face detector come to its teacher, and is it faster?

Reference faces are the teacher's at score >= 0.6 on the same scaled frame, so this measures the
distillation, not the truth. A reference face is found when a detection overlaps it at IoU >= 0.5,
each detection used once; its size is the square root of its area in pixels of the frame. The
landmark error is the mean distance of the five points over the teacher's inter-ocular distance,
for found faces of 40 px and more. Speed is CPU time of the network alone, one thread, interleaved
medians. Clips, scenes and backgrounds measured here were never trained on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.detect import STRIDES, Detector, overlaps
from edgeface.models import ModelCard, load_card
from edgeface.runtime import Runtime, Session, open_session
from edgeface.types import Array, Face, Image, Threshold

TEACHER = "models/teachers/yunet_n_dynamic.onnx"
TEACHER_SCORE = 0.6
IOU = 0.5
SIZES = (20, 40, 80)  # px
HELD_BACK, HELD_BACKGROUNDS = 300, 150
FRAMES = ((320, 320), (480, 640))  # (H, W)


class TeacherSession:
    """A YuNet session that speaks as our detector does: one map per stride, score as logit."""

    def __init__(self, session: Session) -> None:
        self._session, self.runtime = session, session.runtime

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Array]:
        """See `edgeface.runtime.Session`."""
        image = inputs["input"]
        out = self._session.run({"input": image})
        maps = {}
        for stride in STRIDES:
            score = np.sqrt(out[f"cls_{stride}"] * out[f"obj_{stride}"]).clip(1e-6, 1 - 1e-6)
            rows = [np.log(score / (1 - score)), out[f"bbox_{stride}"], out[f"kps_{stride}"]]
            h, w = image.shape[2] // stride, image.shape[3] // stride
            table = np.concatenate(rows, axis=2).transpose(0, 2, 1)
            maps[f"stride_{stride}"] = table.reshape(len(image), -1, h, w)
        return maps


def teacher_card(path: Path) -> ModelCard:
    """A card for the teacher file, enough for `Detector`."""
    raw = {"input": {"name": "input"}}
    return ModelCard("teacher", "detection", path, "", 0, Threshold(TEACHER_SCORE, "card"), raw)


def clip_frames(folder: Path, *, every: int) -> Iterator[Image]:
    """Every `every`-th frame of the clips in `folder`; 1080p and tiny ones as they are."""
    for path in [*sorted(folder.glob("*.mp4")), *sorted((folder / "intel_gifs").glob("*.gif"))]:
        capture, index = cv2.VideoCapture(str(path)), 0
        while capture.grab():
            if index % every == 0:
                yield np.asarray(capture.retrieve()[1], np.uint8)
            index += 1


def scene_images(folder: Path, n: int) -> Iterator[Image]:
    """The first `n` of the held-back scenes."""
    lines = (folder / "annotations.jsonl").read_text().splitlines()[-HELD_BACK:]
    for line in lines[:n]:
        yield np.asarray(cv2.imread(str(folder / json.loads(line)["file"])), np.uint8)


@dataclass
class Tally:
    """Counts of one set of images, per size of `SIZES`, and the landmark errors of found faces."""

    wanted: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SIZES), np.int64))
    found: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SIZES), np.int64))
    given: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SIZES), np.int64))
    right: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SIZES), np.int64))
    errors: list[float] = field(default_factory=list)

    def add(self, ours: Sequence[Face], theirs: Sequence[Face]) -> None:
        """Count one image."""
        pairs = match(ours, theirs)
        taken = set(pairs.values())
        for k, size in enumerate(SIZES):
            for i, face in enumerate(theirs):
                self.wanted[k] += side(face) >= size
                self.found[k] += side(face) >= size and i in pairs
            for j, face in enumerate(ours):
                self.given[k] += side(face) >= size
                self.right[k] += side(face) >= size and j in taken
        for i, j in pairs.items():
            if side(theirs[i]) >= 40:
                self.errors.append(landmark_error(ours[j], theirs[i]))

    def figures(self, prefix: str) -> dict[str, float | str | None]:
        """Recall, precision and landmark error under flat keys; None where nothing was counted."""
        out: dict[str, float | str | None] = {}
        for k, size in enumerate(SIZES):
            out[f"{prefix}.faces{size}"] = float(self.wanted[k])
            out[f"{prefix}.recall{size}"] = share(self.found[k], self.wanted[k])
            out[f"{prefix}.precision{size}"] = share(self.right[k], self.given[k])
        out[f"{prefix}.landmark_error"] = float(np.mean(self.errors)) if self.errors else None
        out[f"{prefix}.landmark_error_median"] = (
            float(np.median(self.errors)) if self.errors else None
        )
        return out


def share(part: int, whole: int) -> float | None:
    """`part` of `whole`, None when there is nothing."""
    return float(part / whole) if whole else None


def side(face: Face) -> float:
    """Square root of the box area, px."""
    return float(np.sqrt(np.prod(face.box[2:] - face.box[:2])))


def landmark_error(ours: Face, theirs: Face) -> float:
    """Mean point distance over the teacher's inter-ocular distance."""
    eyes = float(np.linalg.norm(theirs.landmarks[0] - theirs.landmarks[1]))
    return float(np.linalg.norm(ours.landmarks - theirs.landmarks, axis=1).mean() / max(eyes, 1.0))


def match(ours: Sequence[Face], theirs: Sequence[Face]) -> dict[int, int]:
    """Reference number to detection number, best overlaps first, one to one, IoU >= `IOU`."""
    if not ours or not theirs:
        return {}
    table = overlaps(np.stack([f.box for f in theirs]), np.stack([f.box for f in ours]))
    pairs: dict[int, int] = {}
    for flat in np.argsort(-table, axis=None, kind="stable"):
        i, j = divmod(int(flat), len(ours))
        if table[i, j] < IOU:
            break
        if i not in pairs and j not in pairs.values():
            pairs[i] = j
    return pairs


def speed(files: dict[str, Path], runtime: Runtime, *, repeats: int) -> dict[str, float]:
    """Median CPU ms per frame of each model, interleaved, one thread."""
    names = {"": "image", "_teacher": "input"}
    sessions = {key: open_session(path, runtime=runtime, threads=1) for key, path in files.items()}
    out = {}
    for h, w in FRAMES:
        frame = np.random.default_rng(0).uniform(0, 255, (1, 3, h, w)).astype(np.float32)
        times: dict[str, list[float]] = {key: [] for key in sessions}
        for _ in range(repeats + 3):
            for key, session in sessions.items():
                start = time.process_time()
                session.run({names[key]: frame})
                times[key].append(time.process_time() - start)
        for key, values in times.items():
            out[f"detect.ms.{w}x{h}.{runtime}{key}"] = 1e3 * float(np.median(values[3:]))
    return out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options beyond the runner's."""
    parser.add_argument("--model", default="detector", help="name or file of the detector")
    parser.add_argument("--threshold", type=float, help="score threshold; default the card's")
    parser.add_argument("--runtime", default="onnxruntime", help="for the quality figures")
    parser.add_argument("--every", type=int, default=5, help="take every n-th frame of the clips")


def figures(args: argparse.Namespace) -> dict[str, float | str | None]:
    """Quality against the teacher, false alarms on backgrounds, speed beside the teacher."""
    data, teacher_file = args.shared / "data", args.shared / TEACHER
    card = load_card(args.model, "detection")
    ours = Detector(
        open_session(card.path, runtime=args.runtime, threads=1),
        card,
        score_threshold=args.threshold,
    )
    session = open_session(teacher_file, runtime=args.runtime, threads=1)
    theirs = Detector(TeacherSession(session), teacher_card(teacher_file))
    few = 6 if args.quick else 1
    sets = {
        "clips": clip_frames(data / "video", every=args.every * few),
        "scenes": scene_images(data / "scenes", HELD_BACK // few),
    }
    out: dict[str, float | str | None] = {"detect.threshold": ours.score_threshold}
    for name, images in sets.items():
        tally = Tally()
        for image in images:
            tally.add(ours(image), theirs(image))
        out |= tally.figures(f"detect.{name}")
    empty = sorted((data / "scenes" / "background").iterdir())[-HELD_BACKGROUNDS:][::few]
    pictures = [np.asarray(cv2.imread(str(path)), np.uint8) for path in empty]
    for suffix, detector in (("", ours), ("_teacher", theirs)):
        alarms = sum(len(detector(picture)) for picture in pictures)
        out[f"detect.background.alarms_per_image{suffix}"] = alarms / len(pictures)
    out["detect.size_mb"] = card.path.stat().st_size / 1e6
    files = {"": card.path, "_teacher": teacher_file}
    for runtime in ("onnxruntime", "openvino"):
        out |= speed(files, runtime, repeats=20 if args.quick else 100)
    return out
