"""A folded chain as it behaves in INT8: calibration, bias correction, fine-tuning, all in PyTorch.

Weights int8 per output channel, symmetric; every map uint8 per tensor, asymmetric, because PReLU's
outputs have both signs; a residual branch is rounded before its addition too, which lets OpenVINO
add inside the convolution; the raw embedding stays float. What is rounded here is rounded at the
same place by the graphs of `quantize`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from export.folded import Layer, hidden, rescale
from export.rounding import LEVELS, range_of, weight_scale

Images = NDArray[np.uint8]
# The input in steps: (x − 128) / 127.5, which uint8 holds exactly; the half step to the network's
# own (x − 127.5) / 127.5 is in the first layer's bias.
CENTRE, UNIT = 128.0, 127.5


def convolve(x: Tensor, weight: Tensor, bias: Tensor, layer: Layer) -> Tensor:
    return functional.conv2d(x, weight, bias, layer.stride, layer.padding, groups=layer.groups)


def activate(x: Tensor, slope: Tensor | None) -> Tensor:
    """PReLU written out: PyTorch's own backward costs a CPU more than the convolutions."""
    if slope is None:
        return x
    if not torch.is_grad_enabled():
        return functional.prelu(x, slope)
    return x.clamp(min=0) + slope.view(-1, 1, 1) * x.clamp(max=0)


def rounded(x: Tensor) -> Tensor:
    """Nearest integer, the gradient passed straight through."""
    return x + (x.round() - x).detach()


class SimulatedInt8(nn.Module):
    """The chain with every rounding of its INT8 form; parameters are trainable.

    `log_scale`, `zero` (2, layers) are the maps' steps and zero points, row 0 of what a layer
    leaves, row 1 of a residual branch before its addition; `weight_steps` are the weights' steps.
    """

    def __init__(self, layers: list[Layer]) -> None:
        super().__init__()
        first = layers[0]
        shift = first.weight.sum((1, 2, 3)) * (CENTRE - 127.5) / UNIT
        layers = [replace(first, bias=first.bias + shift), *layers[1:]]
        self.layers = layers
        self.weights = nn.ParameterList([nn.Parameter(torch.tensor(x.weight)) for x in layers])
        self.biases = nn.ParameterList([nn.Parameter(torch.tensor(x.bias)) for x in layers])
        self.slopes = nn.ParameterList(
            [
                nn.Parameter(torch.tensor(x.slope), requires_grad=bool(x.slope.any()))
                if x.slope is not None
                else nn.Parameter(torch.zeros(0), requires_grad=False)
                for x in layers
            ]
        )
        self.log_scale = nn.Parameter(torch.zeros(2, len(layers)))
        self.zero: Tensor
        self.register_buffer("zero", torch.zeros(2, len(layers)))
        self.weight_steps = nn.ParameterList(
            [
                nn.Parameter(torch.from_numpy(weight_scale(x.weight)), requires_grad=False)
                for x in layers
            ]
        )

    def slope(self, i: int) -> Tensor | None:
        return None if self.layers[i].slope is None else self.slopes[i]

    def weight(self, i: int) -> Tensor:
        """The weight as int8 holds it."""
        step = self.weight_steps[i]
        return rounded((self.weights[i] / step).clamp(-127, 127)) * step

    def map(self, x: Tensor, i: int, *, branch: bool = False) -> Tensor:
        """The output of layer `i`, or with `branch` of its convolution, as uint8 holds it; the
        last layer's stays float."""
        if i == len(self.layers) - 1:
            return x
        scale = self.log_scale[int(branch), i].exp()
        zero = self.zero[int(branch), i]
        if not torch.is_grad_enabled():
            q = (x / scale).round_().add_(zero).clamp_(0, LEVELS)
            return q.sub_(zero).mul_(scale)
        return (rounded(x / scale) + zero).clamp(0, LEVELS).sub(zero).mul(scale)

    def forward(self, image: Tensor) -> Tensor:
        """Raw embedding (n, d) of RGB (n, 3, 112, 112) in whole steps 0..255."""
        x, outputs = (image - CENTRE) / UNIT, dict[str, Tensor]()
        for i, layer in enumerate(self.layers):
            x = convolve(x, self.weight(i), self.biases[i], layer)
            if layer.add:
                x = self.map(x, i, branch=True) + outputs[layer.add]
            x = outputs[layer.name] = self.map(activate(x, self.slope(i)), i)
        return x.flatten(1)

    def set_range(self, parts: list[Tensor], i: int, *, branch: bool = False) -> None:
        scale, self.zero[int(branch), i] = range_of([part.numpy() for part in parts])
        self.log_scale[int(branch), i] = math.log(scale)

    def tuned(self) -> list[Layer]:
        """The chain with the trained values."""
        return [
            replace(
                layer,
                weight=self.weights[i].detach().numpy(),
                bias=self.biases[i].detach().numpy(),
                slope=None if layer.slope is None else self.slopes[i].detach().numpy(),
            )
            for i, layer in enumerate(self.layers)
        ]


def float_run(
    layers: list[Layer], image: Tensor, see: Callable[[int, Tensor], None] | None = None
) -> Tensor:
    """Raw embedding of the chain in float; `see` gets every layer's output."""
    x, outputs = (image - 127.5) / 127.5, dict[str, Tensor]()
    with torch.no_grad():
        for i, layer in enumerate(layers):
            x = convolve(x, torch.from_numpy(layer.weight), torch.from_numpy(layer.bias), layer)
            if layer.add:
                x = x + outputs[layer.add]
            slope = None if layer.slope is None else torch.from_numpy(layer.slope)
            x = outputs[layer.name] = activate(x, slope)
            if see:
                see(i, x)
    return x.flatten(1)


def _batches(images: Tensor, size: int = 16) -> Iterator[Tensor]:
    for i in range(0, len(images), size):
        yield images[i : i + size]


def equalise(layers: list[Layer], images: Tensor, *, partial: float = 0.5) -> list[Layer]:
    """The chain with every hidden map's channels brought towards one range, exactly (cross-layer
    equalisation, Nagel et al. 2019, §4.1): before a depthwise layer, whose weights have a step per
    channel, wholly; before others by the power `partial`, because it spreads their weights."""
    low = [np.zeros(len(x.bias), np.float32) for x in layers]
    high = [np.zeros(len(x.bias), np.float32) for x in layers]

    def see(i: int, x: Tensor) -> None:
        low[i] = np.minimum(low[i], x.amin((0, 2, 3)).numpy())
        high[i] = np.maximum(high[i], x.amax((0, 2, 3)).numpy())

    for batch in _batches(images):
        float_run(layers, batch, see)
    out = list(layers)
    for i in hidden(layers):
        spread = np.maximum(high[i], -low[i])
        spread = np.maximum(spread, spread.max() * 1e-3)
        power = 1.0 if layers[i + 1].depthwise else partial
        factor = (spread / np.exp(np.log(spread).mean())) ** -power
        rescale(out, i, factor.astype(np.float32))
    return out


def calibrate(layers: list[Layer], images: Tensor) -> SimulatedInt8:
    """The INT8 form of a chain: ranges of least squared error and biases corrected for the shift
    that rounding brings (Nagel et al. 2019, §4.2), layer after layer on the rounded maps."""
    model, last = SimulatedInt8(layers), ""
    exact = {"": [(batch - 127.5) / 127.5 for batch in _batches(images)]}
    coarse = {"": [(batch - CENTRE) / UNIT for batch in _batches(images)]}
    with torch.no_grad():
        for i, layer in enumerate(layers):
            weight, bias = torch.from_numpy(layer.weight), torch.from_numpy(layer.bias)
            int8 = model.weight(i)
            x = [convolve(batch, weight, bias, layer) for batch in exact[last]]
            y = [convolve(batch, int8, model.biases[i], layer) for batch in coarse[last]]
            sums = [(b.mean((2, 3)) - a.mean((2, 3))).sum(0) for a, b in zip(x, y, strict=True)]
            shift = torch.stack(sums).sum(0) / len(images)
            model.biases[i] -= shift
            y = [batch.sub_(shift.view(-1, 1, 1)) for batch in y]
            if layer.add:
                model.set_range(y, i, branch=True)
                y = [model.map(batch, i, branch=True) for batch in y]
                x = [a.add_(b) for a, b in zip(x, exact[layer.add], strict=True)]
                y = [a.add_(b) for a, b in zip(y, coarse[layer.add], strict=True)]
            if layer.slope is not None:
                x = [activate(batch, model.slope(i)) for batch in x]
                y = [activate(batch, model.slope(i)) for batch in y]
            if i < len(layers) - 1:
                model.set_range(y, i)
            if not any(later.add == last for later in layers[i + 1 :]):
                del exact[last], coarse[last]
            exact[layer.name], coarse[layer.name] = x, [model.map(batch, i) for batch in y]
            last = layer.name
    return model


def similarity(model: SimulatedInt8, images: Tensor, target: Tensor) -> Tensor:
    """Cosine (n,) of the INT8 form's embeddings to `target` (n, d)."""
    with torch.no_grad():
        out = torch.cat([model(batch) for batch in _batches(images)])
    return functional.cosine_similarity(out, target, dim=1)


def tune(
    model: SimulatedInt8,
    feed: Callable[[int], Tensor],
    layers: list[Layer],
    *,
    steps: int,
    rate: float = 2e-4,
) -> None:
    """Fine-tune the rounded network, in place, towards the float chain's embeddings (Jacob et al.
    2018: gradients pass the roundings unchanged). `feed(step)` gives a batch of pictures. The worst
    of a batch weigh more than the mean: a file is judged by its worst face too."""
    wide = [*model.weights]
    thin = [p for p in (*model.biases, *model.slopes) if p.requires_grad]
    groups = [
        {"params": wide, "lr": rate, "peak": rate},
        {"params": thin, "lr": rate, "peak": rate},
        {"params": [model.log_scale], "lr": rate, "peak": rate * 5},
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    for step in range(steps):
        image = feed(step)
        target = functional.normalize(float_run(layers, image), dim=1)
        distance = 1 - functional.cosine_similarity(model(image), target, dim=1)
        loss = distance.mean() + (distance.square().mean() + 1e-12).sqrt()
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 20 == 0 or step == steps - 1:
            print(
                f"\rint8: step {step + 1}/{steps}, mean 1 - cosine {distance.mean().item():.5f}",
                end="",
                file=sys.stderr,
                flush=True,
            )
    print(file=sys.stderr)
