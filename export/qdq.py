"""A foreign network in INT8 for both runtimes, without torch: `export.rewrite`'s graph with QDQ.

Weights int8 per output channel, maps uint8 per tensor, asymmetric. Before that the channels of a
hidden map are brought to one range as in `simulated.equalise` (exact, PReLU being positively
homogeneous), and the biases are corrected for the shift that rounded weights bring (Nagel et al.
2019, §4). What the graph holds beside convolutions and products with known matrices stays float,
and so does the raw embedding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper

from export.net import Net, attribute, convolutions
from export.rewrite import unit
from export.rounding import MOST, range_of, weight_scale

Floats = NDArray[np.float32]
HOMOGENEOUS = {"PRelu", "Relu", "LeakyRelu"}
BATCH = 8
# Of equalising: the first leaves half of the difference before a full convolution. Cosine to the
# float file, w600k_mbf: one .9947, two .9954, three .9952.
PASSES = 2
SAMPLES = 4000  # values of a map that are looked at in a batch


def run(model: onnx.ModelProto, images: Floats, names: list[str]) -> Iterator[list[Floats]]:
    """Values of maps, batch after batch, of RGB (n, 3, 112, 112) 0..255."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 2, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for i in range(0, len(images), BATCH):
        yield session.run(names, {"image": images[i : i + BATCH]})


def chains(net: Net) -> Iterator[tuple[NodeProto, str, NodeProto]]:
    """Convolutions whose output only one other convolution reads, perhaps through an activation:
    the first, the map between them, the second."""
    for node in convolutions(net):
        name = node.output[0]
        readers = net.consumers(name)
        if len(readers) == 1 and readers[0].op_type in HOMOGENEOUS and name != net.output:
            name = readers[0].output[0]
            readers = net.consumers(name)
        if len(readers) != 1 or name == net.output or readers[0].op_type != "Conv":
            continue
        if readers[0].input[0] == name and readers[0].input[1] in net.weights:
            yield node, name, readers[0]


def equalise(net: Net, images: Floats, *, partial: float = 0.5) -> None:
    """Bring the channels of every hidden map towards one range, in the weights around it: wholly
    before a depthwise convolution, whose weights have a step per channel, by the power `partial`
    before others."""
    found = list(chains(net))
    names = [name for _, name, _ in found]
    if not names:
        return
    tops = [np.zeros(net.width(node), np.float32) for node, _, _ in found]
    for values in run(net.model(outputs=tuple(names)), images, names):
        for top, value in zip(tops, values, strict=True):
            np.maximum(top, np.abs(value).max((0, 2, 3)), out=top)
    for (node, _, after), top in zip(found, tops, strict=True):
        spread = np.maximum(top, top.max() * 1e-3)
        depthwise = int(attribute(after, "group", 1)) == len(top)
        factor = (spread / np.exp(np.log(spread).mean())) ** -(1.0 if depthwise else partial)
        net.scale(node, factor)
        net.divide(after, factor)


def layers(net: Net) -> list[NodeProto]:
    """What is computed in integers: convolutions and products with known matrices."""
    return [
        node
        for node in net.nodes
        if node.op_type in {"Conv", "Gemm", "MatMul"}
        and node.input[1] in net.weights
        and node.input[0] not in net.weights
    ]


def maps(net: Net) -> list[str]:
    """Names of the maps that are rounded: what layers read, and both sides of a sum of maps that a
    layer or another such sum reads."""
    read = dict.fromkeys(node.input[0] for node in layers(net))
    for node in net.nodes:
        if node.op_type == "Add" and not any(n in net.weights for n in node.input):
            made = [net.producer(n) for n in node.input]
            if any(m is not None and m.op_type in {"Conv", *HOMOGENEOUS} for m in made):
                read |= dict.fromkeys(node.input)
    return [name for name in read if name != net.output]


def ranges(net: Net, images: Floats) -> dict[str, tuple[float, float]]:
    """(scale, zero point) of every rounded map."""
    names = maps(net)
    seen: dict[str, list[Floats]] = {name: [] for name in names}
    for values in run(net.model(outputs=tuple(names)), images, names):
        for name, value in zip(names, values, strict=True):
            flat = value.ravel()
            ends = np.array([flat.min(), flat.max()], np.float32)
            seen[name].append(np.concatenate([ends, flat[:: max(1, flat.size // SAMPLES)]]))
    return {name: range_of(parts) for name, parts in seen.items()}


def steps(net: Net, node: NodeProto) -> tuple[Floats, int]:
    """The int8 steps of a layer's weight, one an output channel, and the axis these are on."""
    weight = net.weights[node.input[1]]
    axis = 0 if node.op_type == "Conv" else net.axis(node) % weight.ndim
    if node.op_type == "MatMul":
        axis = weight.ndim - 1
    return weight_scale(np.moveaxis(weight, axis, 0)).ravel(), axis


def along(values: Floats, axis: int, rank: int) -> Floats:
    """(o,) values so that they multiply a weight of `rank` along `axis`."""
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def correct(net: Net, images: Floats) -> None:
    """Take out of every convolution's bias what the rounding of its weights adds on average."""
    found = list(convolutions(net))
    names = list(dict.fromkeys(node.input[0] for node in found))
    sums = {name: 0.0 * np.zeros(1) for name in names}
    for values in run(net.model(outputs=tuple(names)), images, names):
        for name, value in zip(names, values, strict=True):
            sums[name] = sums[name] + value.mean((2, 3)).sum(0)
    for node in found:
        weight = net.weights[node.input[1]]
        step = along(*steps(net, node), weight.ndim)
        error = np.clip(np.round(weight / step), -MOST, MOST) * step - weight
        mean = sums[node.input[0]] / len(images)
        groups, inside = int(attribute(node, "group", 1)), weight.shape[1]
        group = np.arange(len(weight)) // (len(weight) // groups)
        seen = mean[group[:, None] * inside + np.arange(inside)[None]]
        shift = (error.sum((2, 3)) * seen).sum(1)
        net.weights[net.bias(node)] = (net.weights[net.bias(node)] - shift).astype(np.float32)


def rounded(
    net: Net, found: dict[str, tuple[float, float]], *, outputs: tuple[str, ...]
) -> onnx.ModelProto:
    """The graph with every map of `found` and every layer's weight rounded (QDQ)."""
    net = copy.deepcopy(net)
    for node in layers(net):
        weight, (step, axis) = net.weights[node.input[1]], steps(net, node)
        integers = np.clip(np.round(weight / along(step, axis, weight.ndim)), -MOST, MOST)
        name = f"{node.output[0]}.q"
        parts = [
            net.constant(f"{name}.weight", integers.astype(np.int8)),
            net.constant(f"{name}.step", step),
        ]
        made = helper.make_node("DequantizeLinear", parts, [f"{name}.dq"], axis=axis)
        net.nodes.insert(net.nodes.index(node), made)
        node.input[1] = made.output[0]
    for name, (scale, zero) in found.items():
        pair = [
            net.constant(f"{name}.step", np.array(scale, np.float32)),
            net.constant(f"{name}.zero", np.array(zero, np.uint8)),
        ]
        readers = net.consumers(name)
        both = [
            helper.make_node("QuantizeLinear", [name, *pair], [f"{name}.q"]),
            helper.make_node("DequantizeLinear", [f"{name}.q", *pair], [f"{name}.dq"]),
        ]
        at = min(net.nodes.index(reader) for reader in readers)
        net.nodes[at:at] = both
        for reader in readers:
            for i, given in enumerate(reader.input):
                if given == name:
                    reader.input[i] = f"{name}.dq"
    if outputs == ("embedding", "norm"):
        unit(net)
    return net.model(outputs=outputs)


def align_input(net: Net) -> None:
    """Let uint8 hold the scaled picture exactly: zero of -1..1 lies between two steps, and is moved
    to the next, which the biases of its readers take back."""
    readers = net.consumers("input.scaled")
    offset = net.weights.get("input.centred.value", np.zeros(0))
    factor = net.weights.get("input.scaled.value", np.zeros(0))
    if offset.size != 1 or factor.size != 1 or any(r.op_type != "Conv" for r in readers):
        return
    whole = np.floor(offset)
    for reader in readers:
        total = net.weights[reader.input[1]].sum((1, 2, 3))
        net.scale(reader, np.ones(len(total)), total * ((offset - whole) * factor).item())
    net.weights["input.centred.value"] = whole.astype(np.float32)


def quantized(net: Net, images: Floats) -> onnx.ModelProto:
    """A network that takes `image` in INT8, calibrated on pictures RGB (n, 3, 112, 112) 0..255."""
    net = copy.deepcopy(net)
    align_input(net)
    for _ in range(PASSES):
        equalise(net, images[:64])
    found = ranges(net, images)
    correct(net, images[:128])
    return rounded(net, found, outputs=("embedding", "norm"))
