"""The two graphs of a fusion network: `update` says what faces add to a state, `readout` gives the
first estimate of a state's template.

update: `embedding` (n, d) unit rows and `quality` (n,) to `share` (n, m), `token` (n, w) and
`weight` (n, 1). readout: sums `total` (b, m, d), `mass` (b, m) and `tokens` (b, m, w) to `template`
(b, d). Float32, any n and b.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor, nn

from export.fusion_network import Readout, Update
from export.onnx_graph import Graph

Floats = NDArray[np.float32]
OPSET = 20  # the first with Gelu


class _Fusion(Graph):
    def __init__(self) -> None:
        super().__init__("fusion", opset=OPSET, ir_version=9)

    def constant(self, value: Tensor | Floats | list[int] | float) -> str:
        array = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
        return self.exact(array.astype(np.int64 if isinstance(value, list) else np.float32))

    def linear(self, x: str, layer: nn.Linear) -> str:
        product = self.node("MatMul", x, self.constant(layer.weight.T))
        return self.node("Add", product, self.constant(layer.bias))


def update_graph(update: Update, shift: Floats, spread: Floats, floor: float) -> onnx.ModelProto:
    """The graph of `export.fusion.Update`, which goes by embeddings less `shift` (d,) over `spread`
    (d,)."""
    g, (centres, width) = _Fusion(), update.anchors.shape
    floored = g.node("Add", "quality", g.constant(floor))
    log = g.node("Unsqueeze", g.node("Log", floored), g.constant([1]))
    quality = g.node("Unsqueeze", "quality", g.constant([1]))
    scaled = g.node("Sub", "embedding", g.constant(shift))
    scaled = g.node("Div", scaled, g.constant(spread))
    x = g.linear(g.node("Concat", scaled, quality, log, axis=1), update.first)
    active, normal, inner, _ = update.token
    assert isinstance(active, nn.PReLU) and isinstance(normal, nn.LayerNorm)
    assert isinstance(inner, nn.Linear)
    x = g.node("PRelu", x, g.constant(active.weight))
    gain, bias = g.constant(normal.weight), g.constant(normal.bias)
    x = g.node("LayerNormalization", x, gain, bias, axis=-1, epsilon=normal.eps)
    token = g.node("Gelu", g.linear(x, inner), output="token")
    weight = g.node("Add", g.linear(token, update.weight), log)
    weight = g.node("Exp", weight, output="weight")
    scores = g.node("MatMul", g.linear(token, update.key), g.constant(update.anchors.T))
    scores = g.node("Div", scores, g.constant(width**0.5))
    g.node("Mul", g.node("Softmax", scores, axis=1), weight, output="share")
    return g.model(
        {"embedding": ["n", len(shift)], "quality": ["n"]},
        {"share": ["n", centres], "token": ["n", width], "weight": ["n", 1]},
    )


def readout_graph(readout: Readout) -> onnx.ModelProto:
    """The graph of `export.fusion.Readout`."""
    g, (centres, width) = _Fusion(), readout.anchors.shape
    size = readout.channels.out_features
    mass = g.node("Unsqueeze", "mass", g.constant([2]))
    safe = g.node("Add", mass, g.constant(1e-12))
    mean = g.node("Div", "total", safe)
    agreement = g.node("ReduceL2", mean, g.constant([2]), keepdims=1)
    anchors = g.node("Expand", g.constant(readout.anchors), g.node("Shape", "tokens"))
    tokens = g.node("Div", "tokens", safe)
    grown = g.node("Log", g.node("Add", mass, g.constant(1.0)))
    about = g.node("Concat", anchors, tokens, agreement, grown, axis=2)
    mix = readout.mix[0]
    assert isinstance(mix, nn.Linear)
    h = g.node("Gelu", g.linear(about, mix))
    common = g.node("ReduceMean", h, g.constant([1]), keepdims=1)
    h = g.node("Concat", h, g.node("Expand", common, g.node("Shape", h)), axis=2)
    scores = g.node("Add", g.linear(h, readout.channels), g.node("Log", safe))
    chosen = g.node("Mul", g.node("Softmax", scores, axis=1), mean)
    g.node("ReduceSum", chosen, g.constant([1]), keepdims=0, output="template")
    return g.model(
        {"total": ["b", centres, size], "mass": ["b", centres], "tokens": ["b", centres, width]},
        {"template": ["b", size]},
    )
