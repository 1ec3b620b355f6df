"""A foreign network's graph made plain: constants worked out, normalisations in the convolutions
before them, the last linear layer a convolution, any number of pictures at a time, PReLU as ONNX
Runtime is fast with it. Every step leaves what the network says as it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import NodeProto, helper

from edgeface.models import InputSpec
from export.net import Array, Net, attribute, odd
from export.prelu import split

LAYERS = ("Conv", "Gemm")


def layer_before(net: Net, name: str) -> NodeProto | None:
    """The convolution or plain linear layer, its weights known, that gives `name` to one
    reader alone."""
    node = net.producer(name)
    if node is None or node.op_type not in LAYERS or len(net.consumers(name)) != 1:
        return None
    if name == net.output or node.input[1] not in net.weights:
        return None
    if any(n and n not in net.weights for n in node.input[2:]):
        return None
    return None if odd(node) else node


def fold_norms(net: Net) -> None:
    """Put batch normalisation, and what is added to every picture alike, into the layer
    before."""
    for node in list(net.nodes):
        if node.op_type not in {"BatchNormalization", "Add", "Mul"}:
            continue
        layer = layer_before(net, node.input[0])
        if layer is None or any(n not in net.weights for n in node.input[1:]):
            continue
        values = [net.weights[n].astype(np.float64) for n in node.input[1:]]
        if node.op_type == "BatchNormalization":
            gamma, beta, mean, variance = values
            factor = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
            net.scale(layer, factor, beta - mean * factor)
        else:
            width, one = net.width(layer), values[0]
            rank = 4 if layer.op_type == "Conv" else 2
            # Channels are the second axis of a map; shapes are aligned at their ends.
            shape = (*[1] * (rank - one.ndim), *one.shape)
            if one.size not in {1, width} or shape[1:2] not in {(1,), (width,)}:
                continue
            if len(shape) != rank or (one.size > 1 and shape[1] != width):
                continue
            if node.op_type == "Add":
                net.scale(layer, np.ones(width), np.broadcast_to(one.ravel(), width))
            else:
                net.scale(layer, np.broadcast_to(one.ravel(), width))
        net.remove(node, layer.output[0])


def name_linear(net: Net) -> None:
    """A product of rows with a known matrix is a linear layer."""
    for node in net.nodes:
        if node.op_type != "MatMul" or node.input[1] not in net.weights:
            continue
        flat = net.producer(node.input[0])
        target = net.weights.get(flat.input[1]) if flat and flat.op_type == "Reshape" else None
        rows = flat is not None and flat.op_type == "Flatten"
        if (rows or (target is not None and len(target) == 2)) and (
            net.weights[node.input[1]].ndim == 2
        ):
            node.op_type = "Gemm"
            net.bias(node)


def convolve_head(net: Net) -> None:
    """A linear layer that reads a whole flattened map is a convolution: in integers OpenVINO
    is faster with that."""
    shapes = net.shapes()
    for node in list(net.nodes):
        if node.op_type != "Gemm" or node.input[1] not in net.weights:
            continue
        flat, weight = net.producer(node.input[0]), net.weights[node.input[1]]
        if flat is None or flat.op_type not in {"Flatten", "Reshape"} or weight.ndim != 2:
            continue
        shape = shapes.get(flat.input[0], [])
        across = weight if net.axis(node) == 0 else weight.T
        if len(shape) != 3 or int(np.prod(shape)) != across.shape[1]:
            continue
        if len(net.consumers(flat.output[0])) != 1:
            continue
        if odd(node):
            continue
        kernel = net.constant(f"{node.output[0]}.kernel", across.reshape(-1, *shape).copy())
        bias = [n for n in node.input[2:] if n]
        if bias:
            bias = [net.constant(f"{node.output[0]}.b", net.weights[bias[0]].reshape(-1))]
        whole = f"{node.output[0]}.map"
        made = helper.make_node(
            "Conv", [flat.input[0], kernel, *bias], [whole], kernel_shape=shape[1:]
        )
        last = helper.make_node("Flatten", [whole], [node.output[0]], axis=1)
        at = net.nodes.index(node)
        net.nodes[at : at + 1] = [made, last]
        net.nodes.remove(flat)


def free_batch(net: Net) -> None:
    """Any number of pictures where the graph was written for one."""
    for node in net.nodes:
        if node.op_type == "Reshape" and node.input[1] in net.weights:
            target = net.weights[node.input[1]]
            if len(target) > 1 and target[0] in {1, -1} and (target[1:] != 0).all():
                fixed = target.copy()
                fixed[0] = 0
                node.input[1] = net.constant(f"{node.output[0]}.shape", fixed)


def normalise(net: Net) -> None:
    """All steps that are good for both runtimes."""
    free_batch(net)
    name_linear(net)
    fold_norms(net)
    convolve_head(net)
    net.prune()


def feed(net: Net, spec: InputSpec) -> None:
    """Take `image`, RGB 0..255 as (n, 3, 112, 112), and make of it what `spec` says."""
    low, high = spec.range
    std = np.array(spec.std)
    factor = (high - low) / 255.0 / std
    offset = (low - np.array(spec.mean)) / std / factor
    name, made = "image", []

    def put(kind: str, value: Array | None, output: str, **more: Any) -> str:
        inputs = [name] if value is None else [name, net.constant(f"{output}.value", value)]
        made.append(helper.make_node(kind, inputs, [output], **more))
        return output

    def plain(values: Array) -> Array:
        one = np.unique(values)
        shape = (1,) if len(one) == 1 else (3, 1, 1)
        return (one if len(one) == 1 else values).reshape(shape).astype(np.float32)

    if spec.color == "BGR":
        name = put("Gather", np.array([2, 1, 0]), "input.bgr", axis=1)
    if offset.any():
        name = put("Add", plain(offset), "input.centred")
    if (factor != 1.0).any():
        name = put("Mul", plain(factor), "input.scaled")
    if spec.layout == "NHWC":
        name = put("Transpose", None, "input.nhwc", perm=[0, 2, 3, 1])
    for node in net.nodes:
        for i, given in enumerate(node.input):
            if given == net.input:
                node.input[i] = name
    net.nodes[:0] = made
    net.input, net.shape = "image", [3, 112, 112]


def split_prelus(net: Net) -> None:
    """Every PReLU behind a convolution as relu(y') + b·y' (`prelu.split`). Slopes above one
    change the sign, which goes into the next convolutions; where something else reads the
    map, the PReLU stays."""
    for node in list(net.nodes):
        if node.op_type != "PRelu" or node.input[1] not in net.weights:
            continue
        layer = layer_before(net, node.input[0])
        slope = net.weights[node.input[1]].ravel()
        if layer is None or slope.size not in {1, net.width(layer)}:
            continue
        factor, linear = split(np.broadcast_to(slope, net.width(layer)))
        readers = net.consumers(node.output[0])
        turned = (factor < 0).any()
        fit = all(r.op_type == "Conv" and r.input[0] == node.output[0] for r in readers)
        if turned and (not fit or node.output[0] == net.output):
            continue
        net.scale(layer, factor)
        if turned:
            for reader in readers:
                net.divide(reader, np.sign(factor))
        y, out = layer.output[0], node.output[0]
        b = net.constant(f"{out}.linear", linear.reshape(-1, 1, 1).astype(np.float32))
        at = net.nodes.index(node)
        net.nodes[at : at + 1] = [
            helper.make_node("Relu", [y], [f"{out}.relu"]),
            helper.make_node("Mul", [y, b], [f"{out}.below"]),
            helper.make_node("Add", [f"{out}.relu", f"{out}.below"], [out]),
        ]


def unit(net: Net) -> None:
    """End in `embedding`, unit rows, and `norm`, their length before."""
    raw, floor = net.output, net.constant("norm.floor", np.full(1, 1e-12, np.float32))
    axes = net.constant("norm.axes", np.array([1]))
    net.nodes += [
        helper.make_node("Flatten", [raw], ["head.raw"], axis=1),
        helper.make_node("Mul", ["head.raw", "head.raw"], ["norm.square"]),
        helper.make_node("ReduceSum", ["norm.square", axes], ["norm.sum"], keepdims=1),
        helper.make_node("Sqrt", ["norm.sum"], ["norm"]),
        helper.make_node("Max", ["norm", floor], ["norm.safe"]),
        helper.make_node("Div", ["head.raw", "norm.safe"], ["embedding"]),
    ]
    net.output = "embedding"
