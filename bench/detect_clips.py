"""The faces of the clips that two other detectors agree on: in single frames, and followed.

Part of `bench detect`. yolov5n-face and SCRFD see every `every`-th frame of a clip, scaled as the
detector scales it. consensus.recall and .alone: one look at such frames, faces of a score of
`least` and more. consensus.tracked.*: gate and tracker see every frame of the clip, as in a watch;
the faces of confirmed tracks count, so the first frames of each are missed. stage.*: frames of the
stage clip in which the singer and the pianist are named, and names that are not theirs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from bench.pipeline_clips import Clip, judge, scaled
from bench.pipeline_clips import clips as staged
from edgeface import Identifier, video
from edgeface.detect import Detector, overlaps
from edgeface.gate import Gate, MotionOptions
from edgeface.motion import thumbnail
from edgeface.track import SceneCut, State, Tracker, TrackerOptions
from edgeface.types import Array, Face, Frame, Sighting
from export.detector_labels import AGREE_IOU, Opinion, Scrfd
from export.yolo import Yolo

Figures = dict[str, float | str | None]
SMALLEST = 16.0  # px, side of the smallest face that counts
TOUCHING = 0.3  # overlap up to which a face is one that no other detector sees


@dataclass(slots=True)
class Tally:
    """Faces `wanted` and `found`, and how many of `ours` are `alone`."""

    wanted: int = 0
    found: int = 0
    ours: int = 0
    alone: int = 0

    def add(self, mine: Array, first: Array, second: Array) -> None:
        """Count the boxes (k, 4) of one frame against two detectors' (n, 4) and (m, 4)."""
        large = np.sqrt(np.prod(first[:, 2:] - first[:, :2], axis=1)) >= SMALLEST
        agreed = first[(overlaps(first, second).max(1, initial=0) > AGREE_IOU) & large]
        self.wanted += len(agreed)
        self.found += int((overlaps(agreed, mine).max(1, initial=0) > AGREE_IOU).sum())
        self.ours += len(mine)
        others = np.concatenate([first, second])
        self.alone += int((overlaps(mine, others).max(1, initial=0) <= TOUCHING).sum())

    def figures(self, prefix: str) -> Figures:
        """Share found, and share of ours that is alone."""
        return {
            f"{prefix}.recall": self.found / max(self.wanted, 1),
            f"{prefix}.alone": self.alone / max(self.ours, 1),
        }


class Followed:
    """Faces of the confirmed tracks of one clip, frame by frame."""

    def __init__(self, detector: Detector, tracking: TrackerOptions) -> None:
        self._gate, self._cut = Gate(detector, MotionOptions()), SceneCut()
        self._tracker = Tracker(tracking)
        self._tracks = self._tracker.update([], 0.0)

    def __call__(self, frame: Frame) -> list[Face]:
        small = thumbnail(frame.image, self._gate.ratio(frame.image))
        if cut := self._cut(small):
            self._tracker.cut()
        faces = self._gate(frame.image, small, frame.time, self._tracks, cut=cut)
        self._tracks = self._tracker.update(faces, frame.time)
        seen = (t for t in self._tracks if t.last_seen == frame.time)
        return [t.face for t in seen if t.state is State.CONFIRMED]


def clips(folder: Path) -> list[Path]:
    """The videos below a folder of clips."""
    return [*sorted(folder.glob("*.mp4")), *sorted((folder / "intel_gifs").glob("*.gif"))]


def consensus(
    detector: Detector, tracking: TrackerOptions, shared: Path, *, least: float, every: int
) -> Figures:
    """See the module; None where the first of the two detectors cannot run."""
    yolo = Yolo.load(shared / "models/landmarks")
    if yolo is None:
        return {"detect.consensus.recall": None, "detect.consensus.alone": None}
    scrfd = Scrfd(shared / "models/peers/scrfd/scrfd_2.5g_bnkps.onnx")
    once, followed = Tally(), Tally()
    for path in clips(shared / "data" / "video"):
        follow = Followed(detector, tracking)
        for frame in video.frames(path):
            shown = follow(frame)
            if frame.index % every:
                continue
            ratio = min(1.0, detector.max_side / max(frame.image.shape[:2]))
            small = cv2.resize(frame.image, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
            image = np.asarray(small, np.uint8)
            theirs = [_boxes(peer(image)) for peer in (yolo, scrfd)]
            once.add(_boxes([f for f in detector(image) if f.score >= least]), *theirs)
            followed.add(_boxes(shown) * np.float32(ratio), *theirs)
    return {
        "detect.consensus.faces": float(once.wanted),
        **once.figures("detect.consensus"),
        **followed.figures("detect.consensus.tracked"),
    }


def stage(model: str, shared: Path, widths: Sequence[int]) -> Figures:
    """Frames of the stage clip named by person, and wrongly, for each width of a frame."""
    out: Figures = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for width in widths:
            clip = staged(shared)[0]
            if cv2.VideoCapture(str(clip.file)).get(cv2.CAP_PROP_FRAME_WIDTH) != width:
                clip = scaled(clip, width, folder)
            with Identifier.open(folder / f"{width}.gallery", detector=model, threads=1) as app:
                for file in clip.people:
                    app.enroll(file.stem, [file], policy="largest")
                seen = [
                    [frame.index, *sighting.face.box.tolist(), sighting.decision.name]
                    for frame in video.frames(clip.file)
                    for sighting in _shown(app, frame)
                ]
            out |= {f"detect.stage.{width}.{k}": v for k, v in named(clip, seen, width).items()}
    return out


def named(clip: Clip, seen: Sequence[Sequence[object]], width: int) -> dict[str, float]:
    """Of the names in rows of frame, four corners in pixels and name: how many are right, by
    person, and how many wrong."""
    out = {}
    for name in (file.stem for file in clip.people):
        out[f"named.{name}"] = float(judge(clip, [r for r in seen if r[-1] == name], width)[0])
    return out | {"wrong": float(judge(clip, seen, width)[1])}


def _shown(app: Identifier, frame: Frame) -> list[Sighting]:
    app.step(frame)
    return app.sightings


def _boxes(faces: Sequence[Face] | Sequence[Opinion]) -> Array:
    return np.array([f.box for f in faces], np.float32).reshape(-1, 4)
