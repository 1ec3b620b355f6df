"""The network of landmarks as a file with its card: `python -m export landmarks-onnx CHECKPOINT`.

It is compared with its checkpoint, and on faces of scenes kept back with what the detector's look
alone gives; the card has the figures. A file that is no better is not written.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface.detect import Detector
from edgeface.detect.landmarks import SIDE, Landmarks
from edgeface.document import Json
from edgeface.models import InputSpec, ModelCard, digest, load_card, write_card
from edgeface.runtime import open_session
from edgeface.types import Array, Image, Threshold
from export.checkpoint import read_checkpoint
from export.detector_onnx import halve_weights, strip
from export.landmarks_data import told
from export.landmarks_labels import EDGE
from export.networks.landmarks import PointNetwork
from export.scenes import Picture, read, split

PARITY = 0.1  # px of the patch that float16 weights may move a point
SMALLEST = 40.0  # px, side of the smallest face that is measured
NEAR = 0.7  # eye distances from a face's middle within which a detection is that face's
TILTS = (0, 30)  # degrees by which scenes are turned
TERMS = "research only: some training pictures state research-only or no terms"


class Answers(nn.Module):
    """The network with an output for the points and one for the logit of an upright face."""

    def __init__(self, network: PointNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        answers = self.network(x)
        return answers[:, :10], answers[:, 10:]


def to_onnx(network: PointNetwork) -> onnx.ModelProto:
    """The fused network, in eval mode, as a graph of dynamic batch with float16 weights."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():  # the exporter's own use of deprecated torch internals
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Answers(network).eval(),
            (torch.zeros(2, 3, SIDE, SIDE),),
            dynamo=True,
            verbose=False,
            input_names=["image"],
            output_names=["landmarks", "face"],
            dynamic_shapes=({0: torch.export.Dim("n")},),
        )
    proto = program.model_proto
    strip(proto)
    return halve_weights(proto)


def worst_difference(
    network: PointNetwork, proto: onnx.ModelProto, patches: NDArray[np.float32]
) -> float:
    """By how much the file moves a point of (n, 3, SIDE, SIDE) patches at the most, px."""
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        wanted = network(torch.from_numpy(patches))[:, :10].numpy()
    return float(np.abs(session.run(["landmarks"], {"image": patches})[0] - wanted).max())


def turned(picture: Picture, degrees: float) -> tuple[Image, Array]:
    """A scene turned about its middle, and the points of its larger faces where they are known."""
    height, width = picture.image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    image = np.asarray(cv2.warpAffine(picture.image, matrix, (width, height)), np.uint8)
    side = np.sqrt(np.prod(picture.boxes[:, 2:] - picture.boxes[:, :2], axis=1))
    known = np.isfinite(picture.points).all((1, 2)) & (side >= SMALLEST)
    return image, (picture.points[known] - EDGE) @ matrix[:, :2].T + matrix[:, 2]


def errors(detector: Detector, image: Image, points: Array) -> Iterator[tuple[float, float]]:
    """For every face (5, 2) that a call finds: mean distance of its points in shares of the eye
    distance, of the call and measured."""
    found = detector(image)
    for true in points:
        eyes = max(float(np.linalg.norm(true[0] - true[1])), 1.0)
        across = max(eyes, float(np.linalg.norm(true[:2].mean(0) - true[3:].mean(0))))
        near = [
            f for f in found
            if np.linalg.norm(f.landmarks.mean(0) - true.mean(0)) < NEAR * across
        ]  # fmt: skip
        if near:
            seen = near[0].landmarks, detector.refine(image, near[0]).landmarks
            first, again = (float(np.linalg.norm(s - true, axis=1).mean()) / across for s in seen)
            yield first, again


def on_scenes(detector: Detector, data: Path, labels: Path) -> dict[str, float]:
    """Errors on the scenes kept back, upright and turned."""
    folder, known = data / "scenes", told(labels)
    _, dev, _ = split(folder / "annotations.jsonl")
    pictures = [Picture.of(read(folder / r["file"]), known[r["file"]]).shrunk(960) for r in dev]
    out: dict[str, float] = {}
    for tilt in TILTS:
        rows = np.array([e for p in pictures for e in errors(detector, *turned(p, tilt))])
        out[f"landmarks.turned{tilt}.faces"] = len(rows)
        for name, column in zip(("first_look", "measured"), rows.T, strict=True):
            out[f"landmarks.turned{tilt}.{name}"] = round(float(column.mean()), 4)
            out[f"landmarks.turned{tilt}.{name}_median"] = round(float(np.median(column)), 4)
    return out


def card(path: Path, step: int, batch: int, metrics: dict[str, Json]) -> ModelCard:
    """The card of a file; its metrics are those of `on_scenes`."""
    training: dict[str, Json] = {
        "method": "regression of points that two detectors agree on, in upright patches",
        "steps": step,
        "batch": batch,
        "initialisation": "random",
        "teachers": [
            {"name": "yolov5n-face (outputs as labels)", "terms": "GPL-3.0"},
            {"name": "SCRFD-2.5G (outputs as labels)", "terms": "non-commercial research"},
        ],
        "data": [
            {"name": "aligned face crops of mixed sources", "terms": "research only, or none"},
            {"name": "scenes of mixed sources", "terms": "as above"},
        ],
    }
    return ModelCard(
        name=path.stem,
        task="landmarks",
        path=path,
        digest=digest(path),
        size=0,
        threshold=Threshold(0.5, "card"),
        derivation="an upright face is as likely as none",
        input=InputSpec("image", color="BGR", size=(SIDE, SIDE)),
        outputs={"landmarks": "landmarks", "face": "face"},
        license=TERMS,
        about={
            "bytes": path.stat().st_size,
            "precision": "float32, weights stored as float16",
            "training": training,
            "metrics": metrics,
        },
    )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export landmarks-onnx", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder with scenes/")
    parser.add_argument("--labels", type=Path, required=True, help="folder of detector-labels")
    parser.add_argument("--out", type=Path, default=Path("edgeface/weights"))
    parser.add_argument("--work", type=Path, help="where it is made; default beside the checkpoint")
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    state = read_checkpoint(args.checkpoint, "average", "step", "batch")
    network = PointNetwork().eval()
    network.load_state_dict(state["average"])
    proto = to_onnx(network.fuse())
    noise = np.random.default_rng(0).uniform(0, 255, (32, 3, SIDE // 8, SIDE // 8))
    patches = noise.astype(np.float32).repeat(8, 2).repeat(8, 3)
    worst = worst_difference(network, proto, patches)
    if worst > PARITY:
        print(f"export: the file moves a point by {worst:.3g} px", file=sys.stderr)
        return 1
    path = (args.work or args.checkpoint.parent) / "landmarks.onnx"
    path.write_bytes(proto.SerializeToString())
    write_card(card(path, state["step"], state["batch"], {}))
    detection = load_card("detector", "detection")
    session = open_session(detection.path, runtime="onnxruntime", threads=1)
    reads = Landmarks.load(path, runtime="onnxruntime", threads=1)
    before = on_scenes(Detector(session, detection), args.data, args.labels)
    after = on_scenes(Detector(session, detection, landmarks=reads), args.data, args.labels)
    for key, value in after.items():
        print(f"{key}: {before[key]} -> {value}", file=sys.stderr)
    worse = [k for k in after if k.endswith("measured") and after[k] >= before[k]]
    if worse:
        print(f"export: no better at {', '.join(worse)}; nothing written", file=sys.stderr)
        return 1
    kept = {"detector": detection.digest[:12], **after}
    target = args.out / path.name
    target.write_bytes(path.read_bytes())
    write_card(card(target, state["step"], state["batch"], kept))
    print(
        f"{target}: {target.stat().st_size} bytes, worst difference {worst:.2g} px", file=sys.stderr
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
