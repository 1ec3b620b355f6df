"""The INT8 form as OpenVINO IR, written small and with the faster convolutions asked for.

The convolutions carry a preference for oneDNN's own AVX-512 implementation over the "brgconv" one
OpenVINO would take: that one works out an element's channel anew for every PReLU it applies, a
quarter of the whole time. The preference is OpenVINO's `PrimitivesPriority` attribute; a processor
without that implementation ignores it, and the results are the same to the bit.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as op

from edgeface.models import parts
from export.folded import Layer
from export.rounding import LEVELS
from export.simulated import CENTRE, UNIT, SimulatedInt8

PREFERENCE = "cpu:jit_avx512"
ATTRIBUTE = f'<attribute name="primitives_priority" version="0" value="{PREFERENCE}"/>'


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


def prefer(text: str) -> str:
    """The IR's XML with the preference on every convolution."""

    def marked(match: re.Match[str]) -> str:
        return re.sub(
            r"(<data [^>]*/>)", rf"\1<rt_info>{ATTRIBUTE}</rt_info>", match.group(0), count=1
        )

    return re.sub(
        r'<layer [^>]*type="(?:Group)?Convolution".*?</layer>', marked, text, flags=re.DOTALL
    )


def shortened(text: str) -> str:
    """The IR's XML without what reading it does not need: inner names, what the conversion noted
    about itself, shapes other than the inputs' (they are worked out anew), defaults, blanks."""
    text = re.sub(r"<rt_info>.*?</rt_info>", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*\n\s*", "", text)
    inner = r'(<layer id="(\d+)") name="[^"]*"(?= type="(?!Parameter|Result))'
    text = re.sub(inner, r'\1 name="\2"', text)
    head, mark, body = text.partition("</layer>")
    body = re.sub(r"(?:<dim>-?\d+</dim>)+", "", body)
    body = re.sub(r"<port ([^>]*?)></port>", r"<port \1/>", body)
    return head + mark + body.replace(' auto_broadcast="numpy"', "")


def save(model: ov.Model, path: Path, *, preferred: bool, half: bool) -> None:
    """Write `path` (.xml) and the .bin beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ov.save_model(model, str(path), compress_to_fp16=half)
    text = shortened(path.read_text())
    path.write_text(prefer(text) if preferred else text)


def size_of(path: Path) -> int:
    """Bytes of a model file, with its .bin for an .xml."""
    return sum(file.stat().st_size for file in parts(path))
