"""A trained embedder as a chain of plain convolutions: what every export starts from.

Batch normalisation is folded, the input scaling stays outside. Two exact rewrites of the chain are
here, both from PReLU being positively homogeneous: `absorb`, after which a PReLU costs ONNX Runtime
two passes over its map instead of four, and `rescale`, by which `simulated.equalise` gives the
channels of a map one range.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.networks.mobilefacenet import Bottleneck, ConvBN, Head, MeshBlock, MobileFaceNet
from export.prelu import split

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One step of the chain: prelu(conv(input) + output of layer `add`).

    `weight` (o, i/groups, kh, kw), `bias` (o,); `slope` (o,) of the PReLU, all zeros for ReLU, None
    for no activation; `add` is empty where nothing is added.
    """

    name: str
    weight: Array
    bias: Array
    slope: Array | None = None
    stride: int = 1
    padding: int = 0
    groups: int = 1
    add: str = ""

    @property
    def depthwise(self) -> bool:
        return self.groups > 1


def _running(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Mean and variance that a normalisation has kept."""
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean, norm.running_var


def fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Array, Array]:
    """Weight and bias of the convolution with the normalisation's running statistics folded in."""
    mean, variance = _running(norm)
    scale = (norm.weight / torch.sqrt(variance + norm.eps)).detach().double()
    weight = convolution.weight.detach().double() * scale[:, None, None, None]
    bias = convolution.bias.detach().double() if convolution.bias is not None else 0.0
    shift = norm.bias.detach().double() + (bias - mean.double()) * scale
    return weight.float().numpy(), shift.float().numpy()


def _slope(module: nn.Module | None, width: int) -> Array | None:
    if module is None:
        return None
    if isinstance(module, nn.ReLU):
        return np.zeros(width, np.float32)
    assert isinstance(module, nn.PReLU)
    return module.weight.detach().numpy().astype(np.float32)


def _layer(name: str, module: ConvBN) -> Layer:
    convolution, norm = module[0], module[1]
    assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    weight, bias = fold(convolution, norm)
    return Layer(
        name,
        weight,
        bias,
        _slope(module[2] if len(module) > 2 else None, len(bias)),
        convolution.stride[0],
        int(convolution.padding[0]),
        convolution.groups,
    )


def _head(name: str, module: Head) -> list[Layer]:
    norm = module.norm
    mean, variance = _running(norm)
    scale = (norm.weight / torch.sqrt(variance + norm.eps)).detach().double()
    weight = (module.linear.weight.detach().double() * scale[:, None]).float().numpy()
    bias = (norm.bias.detach().double() - mean.double() * scale).float().numpy()
    return [
        _layer(f"{name}.expand", module.expand),
        _layer(f"{name}.pool", module.pool),
        Layer(f"{name}.linear", np.ascontiguousarray(weight[:, :, None, None]), bias),
    ]


def _mesh(name: str, module: MeshBlock, before: str) -> list[Layer]:
    depthwise = module.depthwise
    assert depthwise.bias is not None
    weight, bias = fold(module.pointwise, module.norm)
    return [
        Layer(
            f"{name}.depthwise",
            depthwise.weight.detach().numpy().copy(),
            depthwise.bias.detach().numpy().copy(),
            padding=1,
            groups=depthwise.groups,
        ),
        Layer(f"{name}.pointwise", weight, bias, _slope(module.activation, len(bias)), add=before),
    ]


def fold_network(network: MobileFaceNet) -> list[Layer]:
    """The chain of a network in evaluation mode; the last layer's output is the raw embedding."""
    layers: list[Layer] = []
    for name, module in network.eval().blocks.items():
        before = layers[-1].name if layers else ""
        if isinstance(module, Bottleneck):
            layers.append(_layer(f"{name}.expand", module.expand))
            layers.append(_layer(f"{name}.depthwise", module.depthwise))
            project = _layer(f"{name}.project", module.project)
            layers.append(replace(project, add=before if module.residual else ""))
        elif isinstance(module, MeshBlock):
            layers += _mesh(name, module, before)
        elif isinstance(module, Head):
            layers += _head(name, module)
        else:
            for i, part in enumerate(module.children()):
                assert isinstance(part, ConvBN)
                layers.append(_layer(f"{name}.{i}", part))
    return layers


def hidden(layers: list[Layer]) -> list[int]:
    """Positions of the layers whose output only the next layer reads."""
    added = {layer.add for layer in layers}
    return [i for i, layer in enumerate(layers[:-1]) if layer.name not in added and not layer.add]


def rescale(layers: list[Layer], position: int, factor: Array) -> None:
    """Multiply the output channels of a hidden layer by `factor` (o,) > 0 and divide in the next:
    the chain's result stays the same. Changes `layers` in place."""
    one, after = layers[position], layers[position + 1]
    layers[position] = replace(
        one, weight=one.weight * factor[:, None, None, None], bias=one.bias * factor
    )
    layers[position + 1] = replace(after, weight=_divided(after, factor))


def _divided(layer: Layer, factor: Array) -> Array:
    shape = (-1, 1, 1, 1) if layer.depthwise else (1, -1, 1, 1)
    return layer.weight / factor.reshape(shape)


def absorb(layers: list[Layer]) -> tuple[list[Layer], dict[str, Array]]:
    """The chain with every hidden PReLU written as relu(y) + b·y (`prelu.split`), and b (o,) by
    layer name: the factor goes into the layer's own weights, its sign into the next one's. Other
    layers keep their slope; ReLU needs no rewrite.
    """
    out, linear = list(layers), {}
    for i in hidden(layers):
        slope = layers[i].slope
        if slope is None or not slope.any():
            continue
        factor, b = split(slope)
        one, after = out[i], out[i + 1]
        out[i] = replace(
            one,
            weight=(one.weight * factor[:, None, None, None]).astype(np.float32),
            bias=(one.bias * factor).astype(np.float32),
            slope=None,
        )
        out[i + 1] = replace(after, weight=_divided(after, np.sign(factor).astype(np.float32)))
        linear[one.name] = b.astype(np.float32)
    return out, linear
