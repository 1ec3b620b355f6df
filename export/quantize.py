"""`python -m export int8`: a checkpoint in INT8, as QDQ ONNX for any runtime and as OpenVINO IR.

Weights int8 per output channel, maps uint8 per tensor, asymmetric, which PReLU's signed outputs
need; the channels of a map are brought to one range before (`simulated.equalise`), so that a step
per tensor serves each of them, and depthwise convolutions run in integers in OpenVINO. Calibrated
on clean faces, at most one per identity; normalisation to unit length stays float. Both files hold
the same numbers. (onnxruntime-tools, once used for this, was archived in 2021 and lives on as
onnxruntime.quantization; neither knows PReLU, nor does it equalise.)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from export.data import Pack, hold_out, open_pack
from export.folded import Layer, fold_network
from export.ir import to_ir
from export.irfile import save, size_of
from export.networks.mobilefacenet import MobileFaceNet
from export.simulated import (
    CENTRE,
    UNIT,
    SimulatedInt8,
    calibrate,
    equalise,
    float_run,
    tune,
)
from export.teachers import to_input
from export.to_onnx import EmbedderGraph, activation, load_network

BATCH = 16  # of fine-tuning


def calibration_rows(data: Pack, count: int, seed: int = 0) -> NDArray[np.int64]:
    """`count` training rows, shuffled: one per known identity first, more of the same people
    only where that is not enough."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(np.flatnonzero(~hold_out(data) & data.keep))
    seen: set[int] = set()
    chosen, spare = [], []
    for row in rows:
        person = int(data.identity[row])
        if person >= 0 and person in seen:
            spare.append(int(row))
            continue
        seen.add(person)
        chosen.append(int(row))
        if len(chosen) == count:
            break
    return np.array([*chosen, *spare][:count])


def far_reaching(layers: list[Layer], images: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` of `images` whose maps reach farthest beyond what is usual, in any layer."""
    reach: list[list[torch.Tensor]] = [[] for _ in layers]
    for i in range(0, len(images), BATCH):
        float_run(
            layers, images[i : i + BATCH], lambda at, x: reach[at].append(x.abs().amax((1, 2, 3)))
        )
    most = torch.stack([torch.cat(parts) for parts in reach])
    beyond = (most / most.median(dim=1, keepdim=True).values).amax(dim=0)
    return images[beyond.argsort(descending=True)[:count].sort().values]


def to_qdq(model: SimulatedInt8) -> onnx.ModelProto:
    """The INT8 form as a QDQ graph with the interface of `to_onnx`."""
    graph = EmbedderGraph(half=False)
    steps, zeros = model.log_scale.detach().exp().numpy(), model.zero.numpy()

    def through(x: str, name: str, scale: float, zero: float) -> str:
        step = graph.exact(np.array(scale, np.float32), f"{name}.step")
        middle = graph.exact(np.array(zero, np.uint8), f"{name}.zero")
        q = graph.node("QuantizeLinear", x, step, middle, output=f"{name}.q")
        return graph.node("DequantizeLinear", q, step, middle, output=f"{name}.dq")

    def weight(layer: Layer, step: NDArray[np.float32]) -> str:
        name = f"{layer.name}.weight"
        integers = np.clip(np.round(layer.weight / step), -127, 127).astype(np.int8)
        scale = graph.exact(step.ravel(), f"{name}.step")
        return graph.node(
            "DequantizeLinear", graph.exact(integers, name), scale, output=f"{name}.dq", axis=0
        )

    offset = graph.exact(np.full(1, -CENTRE, np.float32), "input.offset")
    unit = graph.exact(np.full(1, 1 / UNIT, np.float32), "input.scale")
    x = graph.node("Add", "image", offset, output="input.centred")
    x = graph.node("Mul", x, unit, output="input.scaled")
    x, outputs = through(x, "input", 1 / UNIT, CENTRE), dict[str, str]()
    layers = model.tuned()
    for i, layer in enumerate(layers):
        kernel = weight(layer, model.weight_steps[i].detach().numpy())
        bias = graph.exact(layer.bias, f"{layer.name}.bias")
        x = graph.convolution([x, kernel, bias], layer)
        if layer.add:
            x = through(x, f"{layer.name}.branch", steps[1, i], zeros[1, i])
            x = graph.node("Add", outputs[layer.add], x, output=f"{layer.name}.sum")
        x = activation(graph, x, layer, None)
        if i < len(layers) - 1:
            x = through(x, layer.name, steps[0, i], zeros[0, i])
        outputs[layer.name] = x
    graph.unit(x)
    return graph.finished(len(layers[-1].bias))


def quantized(network: MobileFaceNet, pack: Path, *, count: int, steps: int = 0) -> SimulatedInt8:
    """The INT8 form of a network, its channels equalised, calibrated on `count` faces of a pack and
    fine-tuned for `steps` batches of others. An eighth of the faces are those of four times as many
    whose maps reach farthest: ranges of least squared error cut off what is rare, and very dark
    faces were (cosine .968 in the edge network, .99 and more for all but two of LFW's)."""
    data = open_pack(pack)
    rows = calibration_rows(data, 4 * count + BATCH * steps)

    def faces(some: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(to_input(np.asarray(data.images[some])))

    usual, rest = rows[: count - count // 8], rows[count - count // 8 : 4 * count]
    images = faces(usual)
    layers = equalise(fold_network(network), images[:128])
    model = calibrate(layers, torch.cat([images, far_reaching(layers, faces(rest), count // 8)]))
    if steps:
        others = np.resize(rows[4 * count :] if len(rows) > 4 * count else rows, BATCH * steps)
        tune(model, lambda i: faces(others[i * BATCH :][:BATCH]), layers, steps=steps)
    return model


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export int8", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--pack", type=Path, required=True, help="training pack to calibrate on")
    parser.add_argument(
        "--out", type=Path, required=True, help="target .onnx; .xml and .bin are written beside it"
    )
    parser.add_argument("--count", type=int, default=512, help="calibration faces")
    parser.add_argument("--tune", type=int, default=0, metavar="STEPS", help="fine-tune, rounded")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    if not args.checkpoint.exists():
        print(f"int8: no checkpoint {args.checkpoint}", file=sys.stderr)
        return 2
    torch.set_num_threads(args.threads)
    network, about = load_network(args.checkpoint)
    model = quantized(network, args.pack, count=args.count, steps=args.tune)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(to_qdq(model), str(args.out))
    save(to_ir(model), args.out.with_suffix(".xml"), preferred=True, half=False)
    for path in (args.out, args.out.with_suffix(".xml")):
        print(f"int8: {path} {size_of(path):,} bytes, step {about['step']}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
