"""`python -m export onnx`: a checkpoint as an ONNX graph, and its card.

Input `image` float32 (n, 3, 112, 112), RGB 0..255, any n; outputs `embedding` (n, d), unit rows,
and `norm` (n, 1), the length before normalisation, which falls with the quality of the face. Batch
normalisation is folded. PRelu breaks ONNX Runtime's blocked layout, so PReLU becomes relu(y')+b·y'
(`folded.absorb`), exact for every slope: one Relu and one product which ONNX Runtime runs as a 1×1
depthwise convolution that adds the other. OpenVINO fuses PRelu: `--native-prelu` keeps it. With
float16 weights every weight is stored as float16 and cast back once at load: half the size, the
arithmetic stays float32.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.checkpoint import read_checkpoint
from export.folded import Layer, absorb, fold_network
from export.networks.mobilefacenet import MobileFaceNet, build
from export.onnx_graph import Graph

Array = NDArray[np.float32]
OPSET = 17


class EmbedderGraph(Graph):
    """The graph of an embedder; weights stored as float16 when `half`."""

    def __init__(self, *, half: bool) -> None:
        super().__init__("embedder", opset=OPSET, ir_version=8)
        self.half = half

    def constant(self, name: str, value: Array) -> str:
        if not self.half:
            return self.exact(value.astype(np.float32), name)
        stored = self.exact(value.astype(np.float16), f"{name}.f16")
        self.nodes.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
        return name

    def scaled(self, image: str) -> str:
        """The picture from 0..255 to -1..1."""
        offset = self.exact(np.full(1, -127.5, np.float32), "input.offset")
        scale = self.exact(np.full(1, 1 / 127.5, np.float32), "input.scale")
        x = self.node("Add", image, offset, output="input.centred")
        return self.node("Mul", x, scale, output="input.scaled")

    def convolution(self, inputs: list[str], layer: Layer) -> str:
        last = layer.name.endswith(".linear")
        return self.node(
            "Conv",
            *inputs,
            output=layer.name if last else f"{layer.name}.conv",
            kernel_shape=list(layer.weight.shape[2:]),
            strides=[layer.stride] * 2,
            pads=[layer.padding] * 4,
            group=layer.groups,
        )

    def unit(self, x: str, names: tuple[str, str] = ("norm", "embedding")) -> None:
        """From the last layer's (n, d, 1, 1) map to the two outputs."""
        self.exact(np.full(1, 1e-12, np.float32), "norm.floor")
        raw = self.node("Flatten", x, output="head.raw", axis=1)
        norm = self.node("ReduceL2", raw, output=names[0], axes=[1], keepdims=1)
        safe = self.node("Max", norm, "norm.floor", output="norm.safe")
        self.node("Div", raw, safe, output=names[1])

    def finished(self, width: int) -> onnx.ModelProto:
        """The whole graph of embeddings `width` wide, checked."""
        return self.model(
            {"image": ["n", 3, 112, 112]}, {"embedding": ["n", width], "norm": ["n", 1]}
        )


def activation(graph: EmbedderGraph, x: str, layer: Layer, linear: Array | None) -> str:
    """PReLU of `x`: as relu(x) + linear·x where `absorb` has prepared that, as ReLU, or native."""
    name = layer.name
    if linear is not None:
        positive = graph.node("Relu", x, output=f"{name}.relu")
        rest = graph.constant(f"{name}.linear", linear[:, None, None])
        below = graph.node("Mul", x, rest, output=f"{name}.below")
        return graph.node("Add", positive, below, output=f"{name}.prelu")
    if layer.slope is None:
        return x
    if not layer.slope.any():
        return graph.node("Relu", x, output=f"{name}.relu")
    slope = graph.constant(f"{name}.slope", layer.slope[:, None, None])
    return graph.node("PRelu", x, slope, output=f"{name}.prelu")


def chained(graph: EmbedderGraph, layers: list[Layer], linear: dict[str, Array]) -> str:
    """The last map's name, of a chain from the picture on; `linear` as `absorb` gives it."""
    x, outputs = graph.scaled("image"), dict[str, str]()
    for layer in layers:
        weight = graph.constant(f"{layer.name}.weight", layer.weight)
        bias = graph.constant(f"{layer.name}.bias", layer.bias)
        # The head's linear layer too is a convolution: OpenVINO's INT8 Gemm is slower.
        x = graph.convolution([x, weight, bias], layer)
        if layer.add:
            sum_name = f"{layer.name.rpartition('.')[0]}.sum"
            x = graph.node("Add", outputs[layer.add], x, output=sum_name)
        x = outputs[layer.name] = activation(graph, x, layer, linear.get(layer.name))
    return x


def layers_to_onnx(
    layers: list[Layer], *, half: bool = False, native_prelu: bool = False
) -> onnx.ModelProto:
    """A folded chain as a checked ONNX model; see the module's text."""
    layers, linear = (layers, {}) if native_prelu else absorb(layers)
    graph = EmbedderGraph(half=half)
    graph.unit(chained(graph, layers, linear))
    return graph.finished(len(layers[-1].bias))


def maps_to_onnx(layers: list[Layer]) -> onnx.ModelProto:
    """The beginning of a folded chain: from `image` to its last `map` (n, c, h, w), float32."""
    layers, linear = absorb(layers)
    graph = EmbedderGraph(half=False)
    graph.node("Identity", chained(graph, layers, linear), output="map")
    width = len(layers[-1].bias)
    return graph.model({"image": ["n", 3, 112, 112]}, {"map": ["n", width, "h", "w"]})


def to_onnx(
    network: MobileFaceNet, *, half: bool = False, native_prelu: bool = False
) -> onnx.ModelProto:
    """The network in evaluation mode as a checked ONNX model; see the module's text."""
    return layers_to_onnx(fold_network(network), half=half, native_prelu=native_prelu)


def load_network(checkpoint: Path) -> tuple[MobileFaceNet, dict[str, object]]:
    """The network of a checkpoint in evaluation mode and the rest of what the checkpoint says."""
    state = read_checkpoint(checkpoint, "network", "student", "phase", "step")
    network = build(state["network"])
    network.load_state_dict(state["student"])
    return network.eval(), {k: state[k] for k in ("network", "phase", "step")}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export onnx", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="target .onnx")
    parser.add_argument("--float32", action="store_true", help="float32 weights, twice the size")
    parser.add_argument("--native-prelu", action="store_true", help="PRelu nodes, for OpenVINO")
    args = parser.parse_args(argv)
    if not args.checkpoint.exists():
        print(f"onnx: no checkpoint {args.checkpoint}", file=sys.stderr)
        return 2
    network, about = load_network(args.checkpoint)
    model = to_onnx(network, half=not args.float32, native_prelu=args.native_prelu)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(args.out))
    size = args.out.stat().st_size
    print(
        f"onnx: {args.out} {size:,} bytes, {about['network']} step {about['step']}", file=sys.stderr
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
