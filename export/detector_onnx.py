"""Detector checkpoint to ONNX with its card: `python -m export detector-onnx CHECKPOINT`.

The exported network takes raw BGR pixels; the input scale and all batch norms are folded into the
convolutions. Weights are stored as float16 and cast to float32 by the graph, which both runtimes do
once while loading: half the file, float32 arithmetic. The file is checked against the checkpoint
on real pictures before it is written in place.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeface.document import Json
from edgeface.models import InputSpec, ModelCard, digest, write_card
from edgeface.types import Threshold
from export.networks.detector import STRIDES, FaceDetector
from export.scenes import read, split

OUTPUTS = [f"stride_{s}" for s in STRIDES]
THRESHOLD_ORIGIN = (
    "finds 98 % of the teacher's faces of 20 px and more on 100 scenes neither trained on nor "
    "tested, at a precision of 85 %: a tracker can drop a false face but not invent a missed one"
)
PARITY = 0.05  # largest change of any output, in logits or strides, that float16 weights may make


def to_onnx(model: FaceDetector) -> onnx.ModelProto:
    """The fused network as a float32 graph with dynamic batch, height and width."""
    n, h, w = (torch.export.Dim(name) for name in "nhw")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():  # the exporter's own use of deprecated torch internals
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model.eval(),
            (torch.zeros(2, 3, 128, 96),),
            dynamo=True,
            verbose=False,
            input_names=["image"],
            output_names=OUTPUTS,
            dynamic_shapes=({0: n, 2: 32 * h, 3: 32 * w},),
        )
    proto = program.model_proto
    strip(proto)
    return proto


def strip(proto: onnx.ModelProto) -> None:
    """Remove source locations and names of this machine, in place."""
    for node in proto.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for tensor in proto.graph.initializer:
        tensor.ClearField("metadata_props")
    for value in [*proto.graph.input, *proto.graph.output]:
        value.ClearField("metadata_props")
    proto.graph.ClearField("value_info")
    proto.graph.ClearField("metadata_props")
    proto.ClearField("metadata_props")


def halve_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose convolution kernels are float16 initializers behind a Cast to float32."""
    half = onnx.ModelProto()
    half.CopyFrom(proto)
    casts = []
    for tensor in half.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim == 4:
            name = tensor.name
            packed = numpy_helper.from_array(values.astype(np.float16), f"{name}_half")
            tensor.CopyFrom(packed)
            casts.append(helper.make_node("Cast", [packed.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *half.graph.node]
    half.graph.ClearField("node")
    half.graph.node.extend(nodes)
    onnx.checker.check_model(half, full_check=True)
    return half


def pictures(data: Path, n: int) -> list[NDArray[np.float32]]:
    """`n` held-back scenes as (1, 3, H, W) raw BGR, cut to multiples of 32."""
    _, _, test = split(data / "scenes" / "annotations.jsonl")
    planes = []
    for record in test[:n]:
        image = read(data / "scenes" / record["file"])
        h, w = (side // 32 * 32 for side in image.shape[:2])
        planes.append(np.ascontiguousarray(image[:h, :w].transpose(2, 0, 1)[None], np.float32))
    return planes


def worst_difference(
    model: FaceDetector, proto: onnx.ModelProto, images: list[NDArray[np.float32]]
) -> float:
    """Largest absolute difference between the network and its file over `images`."""
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    worst = 0.0
    for image in images:
        with torch.no_grad():
            wanted = model(torch.from_numpy(image))
        for a, b in zip(wanted, session.run(OUTPUTS, {"image": image}), strict=True):
            worst = max(worst, float(np.abs(a.numpy() - b).max()))
    return worst


def card(path: Path, threshold: float, training: dict[str, Json], metrics: Json) -> ModelCard:
    """The detector's card; its metrics are what `bench detect` measured."""
    return ModelCard(
        name=path.stem,
        task="detection",
        family="grid",
        path=path,
        digest=digest(path),
        size=0,
        threshold=Threshold(threshold, "card"),
        derivation=THRESHOLD_ORIGIN,
        input=InputSpec("image", color="BGR"),
        outputs={name: name for name in OUTPUTS},
        license="research only: some training pictures state research-only or no terms",
        about={
            "bytes": path.stat().st_size,
            "precision": "float32, weights stored as float16",
            "training": training,
            "metrics": metrics,
        },
    )


def training_facts(step: int, batch: int) -> dict[str, Json]:
    """What the card says about how the weights came to be."""
    return {
        "method": "labels on which two of three detectors agree; second generation",
        "steps": step,
        "batch": batch,
        "initialisation": "first generation: 15000 steps of 16, dense distillation of YuNet-n",
        "teachers": [
            {"name": "YuNet-n", "terms": "Apache-2.0"},
            {"name": "yolov5n-face (outputs as labels)", "terms": "GPL-3.0"},
            {"name": "SCRFD-2.5G (outputs as labels)", "terms": "non-commercial research"},
        ],
        "data": [
            {
                "name": "scenes of mixed sources (CelebA in the wild, masked faces, portraits)",
                "terms": "research only, or none stated",
            },
            {"name": "aligned face crops pasted on backgrounds", "terms": "as above"},
        ],
    }


def keep(state: dict[str, Any], file: Path) -> None:
    """Write what a later training starts from: the moving average, in float16."""
    halves = {
        name: value.half() if value.is_floating_point() else value
        for name, value in state["average"].items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"average": halves, "step": state["step"], "batch": state["batch"]}, file)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export detector-onnx", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder with scenes/, for parity")
    parser.add_argument("--out", type=Path, default=Path("edgeface/weights"))
    parser.add_argument("--name", default="detector")
    parser.add_argument("--threshold", type=float, default=0.3, help="default score of the card")
    parser.add_argument("--keep", type=Path, help="float16 checkpoint for a later training")
    parser.add_argument("--report", type=Path, help="`bench detect --json` document for metrics")
    args = parser.parse_args(argv)
    state = torch.load(args.checkpoint, weights_only=True)
    model = FaceDetector().eval()
    model.load_state_dict(state["average"])
    proto = halve_weights(to_onnx(model.fuse()))
    worst = worst_difference(model, proto, pictures(args.data, 20))
    if worst > PARITY:
        print(f"export: the file differs from its checkpoint by {worst:.3g}", file=sys.stderr)
        return 1
    blob = proto.SerializeToString()
    facts = training_facts(state["step"], state["batch"])
    metrics: dict[str, Json] = {}
    if args.report:
        report = json.loads(args.report.read_text())
        figures = {
            k: round(v, 4) if isinstance(v, float) else v for k, v in report["figures"].items()
        }
        metrics = {"commit": report["commit"], **figures}
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{args.name}.onnx"
    path.write_bytes(blob)
    write_card(card(path, args.threshold, facts, metrics))
    if args.keep:
        keep(state, args.keep)
    print(f"{len(blob)} bytes, worst difference {worst:.2g}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
