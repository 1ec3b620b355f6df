"""`python -m export onnx`: a checkpoint as an ONNX graph, and its card.

Input `image` float32 (n, 3, 112, 112), RGB 0..255, any n; outputs `embedding` (n, d), unit rows,
and `norm` (n, 1), the length before normalisation, which falls with the quality of the face. Batch
normalisation is folded. PReLU becomes a·y + (1−a)·relu(y), which is exact for every slope a and,
other than PRelu, does not break ONNX Runtime's blocked layout. With float16 weights every weight is
stored as float16 and cast back once at load: half the size, the arithmetic stays float32.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from export.networks.mobilefacenet import (
    Bottleneck,
    ConvBN,
    Head,
    MeshBlock,
    MobileFaceNet,
    build,
)

Array = NDArray[np.float32]
OPSET = 17


def fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Array, Array]:
    """Weight and bias of the convolution with the normalisation's running statistics folded in."""
    scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().double()
    weight = convolution.weight.detach().double() * scale[:, None, None, None]
    bias = convolution.bias.detach().double() if convolution.bias is not None else 0.0
    shift = norm.bias.detach().double() + (bias - norm.running_mean.double()) * scale
    return weight.float().numpy(), shift.float().numpy()


class Graph:
    """An ONNX graph under construction; weights stored as float16 when `half`."""

    def __init__(self, *, half: bool, native_prelu: bool) -> None:
        self.half, self.native_prelu = half, native_prelu
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, name: str, value: Array) -> str:
        if self.half:
            self.weights.append(numpy_helper.from_array(value.astype(np.float16), name + ".f16"))
            self.nodes.append(
                helper.make_node("Cast", [name + ".f16"], [name], to=TensorProto.FLOAT)
            )
        else:
            self.weights.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def convolution(self, x: str, name: str, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> str:
        weight, bias = fold(conv, norm)
        inputs = [x, self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)]
        return self.node(
            "Conv",
            inputs,
            f"{name}.conv",
            kernel_shape=list(conv.kernel_size),
            strides=list(conv.stride),
            pads=[*conv.padding, *conv.padding],
            group=conv.groups,
        )

    def activation(self, x: str, name: str, module: nn.Module | None) -> str:
        if module is None:
            return x
        if isinstance(module, nn.ReLU):
            return self.node("Relu", [x], f"{name}.relu")
        assert isinstance(module, nn.PReLU)
        slope = module.weight.detach().numpy().reshape(-1, 1, 1)
        if self.native_prelu:
            return self.node("PRelu", [x, self.constant(f"{name}.slope", slope)], f"{name}.prelu")
        if self.half:  # both factors from the one stored value, or they would not add up to 1
            slope = slope.astype(np.float16).astype(np.float32)
        positive = self.node("Relu", [x], f"{name}.relu")
        rest = self.constant(f"{name}.slope", slope)
        gain = self.constant(f"{name}.gain", 1.0 - slope)
        above = self.node("Mul", [positive, gain], f"{name}.above")
        below = self.node("Mul", [x, rest], f"{name}.all")
        return self.node("Add", [above, below], f"{name}.prelu")

    def conv_bn(self, x: str, name: str, module: ConvBN) -> str:
        y = self.convolution(x, name, module[0], module[1])
        return self.activation(y, name, module[2] if len(module) > 2 else None)

    def block(self, x: str, name: str, module: nn.Module) -> str:
        if isinstance(module, Bottleneck):
            y = self.conv_bn(x, f"{name}.expand", module.expand)
            y = self.conv_bn(y, f"{name}.depthwise", module.depthwise)
            y = self.conv_bn(y, f"{name}.project", module.project)
            return self.node("Add", [x, y], f"{name}.sum") if module.residual else y
        if isinstance(module, MeshBlock):
            depthwise = nn.BatchNorm2d(module.depthwise.out_channels, eps=0.0)
            y = self.convolution(x, f"{name}.depthwise", module.depthwise, depthwise)
            y = self.convolution(y, f"{name}.pointwise", module.pointwise, module.norm)
            y = self.node("Add", [x, y], f"{name}.sum")
            return self.activation(y, name, module.activation)
        if isinstance(module, Head):
            return self.head(x, name, module)
        assert isinstance(module, nn.Sequential)
        for i, part in enumerate(module):
            x = self.conv_bn(x, f"{name}.{i}", part)
        return x

    def head(self, x: str, name: str, module: Head) -> str:
        y = self.conv_bn(x, f"{name}.expand", module.expand)
        y = self.conv_bn(y, f"{name}.pool", module.pool)
        norm = module.norm
        scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().double()
        weight = (module.linear.weight.detach().double() * scale[:, None]).float().numpy()
        weight = weight[:, :, None, None]
        bias = (norm.bias.detach().double() - norm.running_mean.double() * scale).float().numpy()
        inputs = [y, self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)]
        # A 1×1 convolution, not Gemm: OpenVINO's INT8 Gemm takes 0.2 ms for these 65k products.
        y = self.node("Conv", inputs, f"{name}.linear", kernel_shape=[1, 1])
        return self.node("Flatten", [y], f"{name}.raw", axis=1)


def to_onnx(
    network: MobileFaceNet, *, half: bool = False, native_prelu: bool = False
) -> onnx.ModelProto:
    """The network in evaluation mode as a checked ONNX model; see the module's text."""
    network = network.eval()
    graph = Graph(half=half, native_prelu=native_prelu)
    graph.weights += [
        numpy_helper.from_array(np.float32(-127.5).reshape(1), "input.offset"),
        numpy_helper.from_array(np.float32(1 / 127.5).reshape(1), "input.scale"),
        numpy_helper.from_array(np.float32(1e-12).reshape(1), "norm.floor"),
    ]
    x = graph.node("Add", ["image", "input.offset"], "input.centred")
    x = graph.node("Mul", [x, "input.scale"], "input.scaled")
    for name, module in network.blocks.items():
        x = graph.block(x, name, module)
    graph.node("ReduceL2", [x], "norm", axes=[1], keepdims=1)
    graph.node("Max", ["norm", "norm.floor"], "norm.safe")
    graph.node("Div", [x, "norm.safe"], "embedding")
    width = network.spec.embedding
    shaped = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "embedder",
            [shaped("image", TensorProto.FLOAT, ["n", 3, 112, 112])],
            [
                shaped("embedding", TensorProto.FLOAT, ["n", width]),
                shaped("norm", TensorProto.FLOAT, ["n", 1]),
            ],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="edgeface",
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def load_network(checkpoint: Path) -> tuple[MobileFaceNet, dict[str, object]]:
    """The network of a checkpoint in evaluation mode and the rest of what the checkpoint says."""
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
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
