"""How close does the face detector come to its teacher, and is it faster?

Reference faces are the teacher's at score >= 0.6 on the same picture, so this measures the
distillation, not the truth. A reference face is found when a detection overlaps it at IoU >= 0.5,
each detection used once; its size is the square root of its area in pixels of the picture. Clips
are measured as they are (`clips`) and scaled down to the detector's default side (`clips640`,
sizes still in pixels of the full frame).

The teacher's landmarks move by several percent of the inter-ocular distance when the picture is
shifted by a few pixels. The landmark error is therefore taken against the mean of its landmarks
over `PASSES` shifted and mirrored pictures, and the teacher's own error against the same mean
(`_teacher`) says how much of it is the reference's noise; `_one_pass` is the error against the
teacher's landmarks on the unshifted picture. Errors are mean distances of the five points over the
inter-ocular distance, for found faces of 40 px and more.

`repeat` figures ask the same of the teacher itself on a picture shifted by `PASSES[0]`: what a
perfect copy of the teacher could reach. Speed is CPU time of the network alone, one thread,
interleaved medians, and their `ratio`. No clip, scene or background measured here was trained on.

Close-ups, turned pictures, labelled points, portraits and people told apart end to end are in
`detect_pictures`, what two other detectors agree on in the clips in `detect_clips`. With
`--against`, people.*_other are those figures of another file, as its first look gives them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bench import detect_clips, detect_pictures
from bench.detect_peers import teacher_card
from edgeface.describe import Describer
from edgeface.detect import MAX_SIDE, Detector, Landmarks, overlaps
from edgeface.embed import Embedder
from edgeface.models import ModelCard, load_card
from edgeface.runtime import Runtime, Session, open_session
from edgeface.types import Array, Face, Image

TEACHER = "models/teachers/yunet_n_dynamic.onnx"
PARTS = ("teacher", "background", "pictures", "people", "consensus", "stage", "speed")
IOU = 0.5
Figures = dict[str, float | str | None]
SIZES = (20, 40, 80)  # px
HELD_BACK, HELD_BACKGROUNDS = 300, 150
DEV = slice(-HELD_BACK - 100, -HELD_BACK)  # lines that choose the threshold, neither train nor test
STAGE = (640, 1280)  # px, width of the stage clip
FRAMES = ((320, 320), (480, 640))  # (H, W)
NATIVE_SIDE = 1920  # px: no clip is scaled down
PASSES = ((3, 5, False), (5, 2, True), (7, 7, False), (2, 6, True), (6, 1, False), (4, 3, True))
MIN_PASSES = 4  # of PASSES must find a face for its mean landmarks to count


def clip_frames(folder: Path, *, every: int) -> Iterator[Image]:
    """Every `every`-th frame of the clips in `folder`; 1080p and tiny ones as they are."""
    for path in detect_clips.clips(folder):
        capture, index = cv2.VideoCapture(str(path)), 0
        while capture.grab():
            if index % every == 0:
                yield np.asarray(capture.retrieve()[1], np.uint8)
            index += 1


def scene_images(folder: Path, lines: slice) -> Iterator[Image]:
    """The scenes of some lines of the annotations."""
    for line in (folder / "annotations.jsonl").read_text().splitlines()[lines]:
        yield np.asarray(cv2.imread(str(folder / json.loads(line)["file"])), np.uint8)


def moved(detector: Detector, image: Image, dx: int, dy: int, *, mirror: bool) -> list[Face]:
    """Faces of `image` found after mirroring it and shifting it right and down, moved back."""
    width = image.shape[1]
    picture = image[:, ::-1] if mirror else image
    picture = np.asarray(cv2.copyMakeBorder(picture, dy, 0, dx, 0, cv2.BORDER_CONSTANT), np.uint8)
    faces = []
    for face in detector(picture):
        box = face.box - np.array([dx, dy, dx, dy], np.float32)
        points = face.landmarks - np.array([dx, dy], np.float32)
        if mirror:
            box = np.array([width - box[2], box[1], width - box[0], box[3]], np.float32)
            points = np.stack([width - points[:, 0], points[:, 1]], axis=1)[[1, 0, 2, 4, 3]]
        faces.append(replace(face, box=box, landmarks=points))
    return faces


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What the teacher says of one picture: its `faces`, their mean landmarks over `PASSES` (None
    where too few passes agree), and the faces of the first pass."""

    faces: list[Face]
    means: list[Array | None]
    repeat: list[Face]


def reference(teacher: Detector, image: Image) -> Reference:
    """Ask the teacher once as it is and once per pass."""
    faces = teacher(image)
    passes = [moved(teacher, image, dx, dy, mirror=mirror) for dx, dy, mirror in PASSES]
    seen: list[list[Array]] = [[] for _ in faces]
    for found in passes:
        for i, j in match(found, faces).items():
            seen[i].append(found[j].landmarks)
    means = [np.mean(s, axis=0) if len(s) >= MIN_PASSES else None for s in seen]
    return Reference(faces, means, passes[0])


@dataclass
class Tally:
    """Counts of one detector on one set of pictures, per size of `SIZES`, and landmark errors."""

    wanted: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SIZES), np.int64))
    found: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SIZES), np.int64))
    given: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SIZES), np.int64))
    right: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SIZES), np.int64))
    errors: dict[str, list[float]] = field(default_factory=dict)

    def add(self, ours: Sequence[Face], wanted: Reference) -> None:
        """Count one picture."""
        theirs = wanted.faces
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
            mean = wanted.means[i]
            if side(theirs[i]) >= 40 and mean is not None:
                self._note("", ours[j].landmarks, mean)
                self._note("_teacher", theirs[i].landmarks, mean)
                self._note("_one_pass", ours[j].landmarks, theirs[i].landmarks)

    def _note(self, key: str, ours: Array, wanted: Array) -> None:
        self.errors.setdefault(key, []).append(landmark_error(ours, wanted))

    def figures(self, prefix: str) -> Figures:
        """Recall, precision and landmark errors under flat keys; None where nothing was counted."""
        out: Figures = {}
        for k, size in enumerate(SIZES):
            out[f"{prefix}.faces{size}"] = float(self.wanted[k])
            out[f"{prefix}.recall{size}"] = share(self.found[k], self.wanted[k])
            out[f"{prefix}.precision{size}"] = share(self.right[k], self.given[k])
        for key in ("", "_teacher", "_one_pass"):
            errors = self.errors.get(key)
            out[f"{prefix}.landmark_error{key}"] = float(np.mean(errors)) if errors else None
            out[f"{prefix}.landmark_error{key}_median"] = (
                float(np.median(errors)) if errors else None
            )
        return out


def share(part: int, whole: int) -> float | None:
    """`part` of `whole`, None when there is nothing."""
    return float(part / whole) if whole else None


def side(face: Face) -> float:
    """Square root of the box area, px."""
    return float(np.sqrt(np.prod(face.box[2:] - face.box[:2])))


def landmark_error(ours: Array, wanted: Array) -> float:
    """Mean point distance of two (5, 2) sets over the inter-ocular distance of `wanted`."""
    eyes = float(np.linalg.norm(wanted[0] - wanted[1]))
    return float(np.linalg.norm(ours - wanted, axis=1).mean() / max(eyes, 1.0))


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


def speed(files: dict[str, Path], runtime: Runtime, *, repeats: int) -> Figures:
    """Median CPU ms per frame of each model, interleaved, one thread."""
    names = {"": "image", "_teacher": "input"}
    sessions = {key: open_session(path, runtime=runtime, threads=1) for key, path in files.items()}
    out: Figures = {}
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
        ours, theirs = (float(np.median(times[key][3:])) for key in ("", "_teacher"))
        out[f"detect.ratio.{w}x{h}.{runtime}"] = ours / theirs
    return out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options beyond the runner's."""
    parser.add_argument("--model", default="detector", help="name or file of the detector")
    parser.add_argument("--against", help="another one, for people.*_other")
    parser.add_argument("--threshold", type=float, help="score threshold; default the card's")
    parser.add_argument(
        "--confident", type=float, default=0.5, help="score from which a face counts for a person"
    )
    parser.add_argument("--runtime", default="onnxruntime", help="for the quality figures")
    parser.add_argument(
        "--parts", default=",".join(PARTS), help=f"comma-separated, of {', '.join(PARTS)}"
    )
    parser.add_argument("--every", type=int, default=5, help="take every n-th frame of the clips")


def figures(args: argparse.Namespace) -> Figures:
    """The parts asked for: quality against the teacher, false alarms on backgrounds, pictures as
    people bring them, speed beside the teacher."""
    parts = args.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        raise SystemExit(f"bench: no part {', '.join(sorted(unknown))}; one of {', '.join(PARTS)}")
    card = load_card(args.model, "detection")
    session = open_session(card.path, runtime=args.runtime, threads=1)
    reads = Landmarks.load(runtime=args.runtime, threads=1)
    ours = Detector(session, card, score_threshold=args.threshold, landmarks=reads)
    out: Figures = {"detect.threshold": ours.score_threshold}
    few = 12 if args.quick else 1
    data = args.shared / "data"
    if "teacher" in parts:
        out |= against_teacher(args, session, card, few)
    if "background" in parts:
        out |= alarms(args, ours, few)
    if "pictures" in parts:
        out |= detect_pictures.truth(ours, data, few)
        out |= detect_pictures.portraits(ours, data, few)
        originals = sorted((data / "lfw" / "originals").rglob("*.jpg"))
        chosen = originals[:: len(originals) // detect_pictures.PICTURES][::few]
        out |= detect_pictures.disturbed(ours, Embedder.load(threads=1), chosen)
    if "people" in parts:
        out |= told_apart(args, ours, few)
    if "consensus" in parts:
        tracking = Describer(ours, Embedder.load(threads=1)).tracking
        out |= detect_clips.consensus(
            ours, tracking, args.shared, least=args.confident, every=args.every * few
        )
    if "stage" in parts:
        out |= detect_clips.stage(args.model, args.shared, STAGE[:1] if args.quick else STAGE)
    out["detect.size_mb"] = card.path.stat().st_size / 1e6
    if "speed" in parts:
        files = {"": card.path, "_teacher": args.shared / TEACHER}
        for runtime in ("onnxruntime", "openvino"):
            out |= speed(files, runtime, repeats=20 if args.quick else 100)
    return out


def told_apart(args: argparse.Namespace, ours: Detector, few: int) -> Figures:
    """LFW originals of the first two folds with this detector as single pictures go, with its
    first look alone, and with that of the file `--against`."""
    looks: dict[str, Callable[[Image], list[Face]]] = {"": ours.search, "_first_look": ours}
    if args.against:
        card = load_card(args.against, "detection")
        looks["_other"] = Detector(open_session(card.path, runtime=args.runtime, threads=1), card)
    files = sorted((args.shared / "data" / "lfw" / "originals").rglob("*.jpg"))
    files = files[: len(files) // few]  # one after the other: pairs of one person are needed
    return detect_pictures.people(looks, Embedder.load(threads=1), files)


def against_teacher(
    args: argparse.Namespace, session: Session, card: ModelCard, few: int
) -> Figures:
    """Faces and points compared with the teacher's."""
    data, teacher_file = args.shared / "data", args.shared / TEACHER
    other = open_session(teacher_file, runtime=args.runtime, threads=1)

    def pair(max_side: int) -> tuple[Detector, Detector]:
        ours = Detector(session, card, max_side=max_side, score_threshold=args.threshold)
        return ours, Detector(other, teacher_card(teacher_file), max_side=max_side)

    every = args.every * few
    sets = {
        "clips": (clip_frames(data / "video", every=every), NATIVE_SIDE),
        "clips640": (clip_frames(data / "video", every=every), MAX_SIDE),
        "scenes": (scene_images(data / "scenes", slice(-HELD_BACK, None, few)), MAX_SIDE),
    }
    out: Figures = {}
    for name, (images, max_side) in sets.items():
        out |= quality(*pair(max_side), images, prefix=f"detect.{name}")
    theirs = pair(MAX_SIDE)[1]
    eager = Detector(session, card, score_threshold=0.05)
    out["detect.dev.break_even"] = break_even(
        eager, theirs, scene_images(data / "scenes", slice(DEV.start, DEV.stop, few))
    )
    return out


def alarms(args: argparse.Namespace, ours: Detector, few: int) -> Figures:
    """False alarms per background: of both detectors, and of ours from the score on from which a
    face counts, in frames and in single pictures."""
    folder, teacher_file = args.shared / "data/scenes/background", args.shared / TEACHER
    empty = sorted(folder.iterdir())[-HELD_BACKGROUNDS:][::few]
    pictures = [np.asarray(cv2.imread(str(path)), np.uint8) for path in empty]
    other = open_session(teacher_file, runtime=args.runtime, threads=1)
    theirs = Detector(other, teacher_card(teacher_file))
    out: Figures = {}
    for suffix, detector in (("", ours), ("_teacher", theirs)):
        found = sum(len(detector(picture)) for picture in pictures)
        out[f"detect.background.alarms_per_image{suffix}"] = found / len(pictures)
    for key, search in (("confident", ours), ("searched", ours.search)):
        faces = [f for picture in pictures for f in search(picture)]
        sure = sum(f.score >= args.confident for f in faces)
        out[f"detect.background.alarms_{key}"] = sure / len(pictures)
    return out


def break_even(ours: Detector, theirs: Detector, images: Iterator[Image]) -> float:
    """The threshold at which `ours` gives as many faces of 20 px and more as `theirs`: its
    precision equals its recall there."""
    scores: list[float] = []
    wanted = 0
    for image in images:
        scores += [face.score for face in ours(image) if side(face) >= SIZES[0]]
        wanted += sum(side(face) >= SIZES[0] for face in theirs(image))
    return sorted(scores, reverse=True)[min(wanted, len(scores)) - 1]


def quality(ours: Detector, theirs: Detector, images: Iterator[Image], *, prefix: str) -> Figures:
    """Figures of one set of pictures: our detector's, and the recall of the teacher's repeat."""
    tally, again = Tally(), Tally()
    for image in images:
        wanted = reference(theirs, image)
        tally.add(ours(image), wanted)
        again.add(wanted.repeat, wanted)
    out = tally.figures(prefix)
    for size in SIZES:
        for kind in ("recall", "precision"):
            out[f"{prefix}.repeat.{kind}{size}"] = again.figures(prefix)[f"{prefix}.{kind}{size}"]
    return out
