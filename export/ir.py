"""The INT8 form of a trained network as an OpenVINO model."""

from __future__ import annotations

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as op

from export.folded import Layer
from export.rounding import LEVELS
from export.simulated import CENTRE, UNIT, SimulatedInt8


def _constant(value: NDArray[np.generic]) -> ov.Node:
    return op.constant(np.ascontiguousarray(value))


def _rounded(x: ov.Node, scale: float, zero: float) -> ov.Node:
    low = _constant(np.full((1, 1, 1, 1), -zero * scale, np.float32))
    high = _constant(np.full((1, 1, 1, 1), (LEVELS - zero) * scale, np.float32))
    return op.fake_quantize(x, low, high, low, high, LEVELS + 1)


def _convolution(x: ov.Node, layer: Layer, step: NDArray[np.float32]) -> ov.Node:
    integers = np.clip(np.round(layer.weight / step), -127, 127).astype(np.int8)
    if layer.depthwise:
        integers, step = integers[:, None], step[:, None]
    weight = op.multiply(op.convert(_constant(integers), "f32"), _constant(step))
    pad = [layer.padding] * 2
    make = op.group_convolution if layer.depthwise else op.convolution
    y = make(x, weight, [layer.stride] * 2, pad, pad, [1, 1])
    return op.add(y, _constant(layer.bias.reshape(1, -1, 1, 1)))


def to_ir(model: SimulatedInt8) -> ov.Model:
    """The INT8 form as an OpenVINO model with the interface of `to_onnx`."""
    image = op.parameter([-1, 3, 112, 112], np.float32, name="image")
    x = op.multiply(
        op.subtract(image, _constant(np.full((1, 1, 1, 1), CENTRE, np.float32))),
        _constant(np.full((1, 1, 1, 1), 1 / UNIT, np.float32)),
    )
    x, outputs = _rounded(x, 1 / UNIT, CENTRE), dict[str, ov.Node]()
    steps = model.log_scale.detach().exp().numpy().astype(np.float64)
    zeros = model.zero.numpy()
    layers = model.tuned()
    for i, layer in enumerate(layers):
        x = _convolution(x, layer, model.weight_steps[i].detach().numpy())
        if layer.add:
            x = op.add(_rounded(x, steps[1, i], zeros[1, i]), outputs[layer.add])
        if layer.slope is not None:
            plain = not layer.slope.any()
            x = op.relu(x) if plain else op.prelu(x, _constant(layer.slope))
        if i < len(layers) - 1:
            x = _rounded(x, steps[0, i], zeros[0, i])
        outputs[layer.name] = x
    raw = op.reshape(x, _constant(np.array([0, -1])), True)
    norm = op.reduce_l2(raw, _constant(np.array([1])), True)
    embedding = op.divide(raw, op.maximum(norm, _constant(np.full(1, 1e-12, np.float32))))
    results = []
    for node, name in ((embedding, "embedding"), (norm, "norm")):
        node.output(0).set_names({name})
        results.append(op.result(node))
    image.output(0).set_names({"image"})
    return ov.Model(results, [image], "embedder")
