"""What a training of the detector starts from: nothing, a checkpoint, or a shipped ONNX file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from export.networks.detector import ConvBlock, FaceDetector


def from_onnx(file: Path) -> FaceDetector:
    """A network that computes what a shipped file does, in eval mode.

    The file has its batch norms folded into the convolutions; `settle` makes them live again.
    Residual blocks that the file lacks, as those of the first generation do, start as the identity.

    Raises:
        ValueError: the file has weights that this network lacks.
        KeyError: it lacks a convolution that is no residual block.
    """
    folded = {
        t.name.removesuffix("_half"): torch.from_numpy(numpy_helper.to_array(t).astype(np.float32))
        for t in onnx.load(str(file)).graph.initializer
        if t.name.endswith(("weight_half", "weight", "bias"))
    }
    model = FaceDetector().eval()
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, ConvBlock):
                if module.residual and f"{name}.conv.weight" not in folded:
                    module.norm.weight.zero_()
                    continue
                module.conv.weight.copy_(folded.pop(f"{name}.conv.weight"))
                module.norm.bias.copy_(folded.pop(f"{name}.conv.bias"))
                module.norm.weight.fill_((1 + module.norm.eps) ** 0.5)
            elif f"{name}.weight" in folded:
                module.weight.copy_(folded.pop(f"{name}.weight"))
                module.bias.copy_(folded.pop(f"{name}.bias"))
        model.stem[0].conv.weight /= model.scale  # the file takes raw pixels
    if folded:
        raise ValueError(f"{file} is no file of this network: it has {', '.join(sorted(folded))}")
    return model


@torch.no_grad()
def settle(model: FaceDetector, batches: list[Tensor]) -> None:
    """Give every batch norm the statistics of `batches`, changing nothing the network computes."""
    norms = [m.norm for m in model.modules() if isinstance(m, ConvBlock)]
    sums = {n: [torch.zeros(n.num_features) for _ in range(2)] for n in norms}

    def gather(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sums[norm][0] += inputs[0].mean((0, 2, 3))
        sums[norm][1] += inputs[0].square().mean((0, 2, 3))

    hooks = [n.register_forward_pre_hook(gather) for n in norms]
    for images in batches:
        model.eval()(images)
    for hook in hooks:
        hook.remove()
    for norm in norms:
        mean, square = (s / len(batches) for s in sums[norm])
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - gain * norm.running_mean
        norm.running_mean.copy_(mean)
        norm.running_var.copy_((square - mean.square()).clamp(min=1e-6))
        norm.weight.copy_(gain * (norm.running_var + norm.eps).sqrt())
        norm.bias.copy_(shift + gain * mean)


def starting(init: Path | None, pictures: Iterable[Tensor]) -> FaceDetector:
    """The network a run starts from: random, of a checkpoint, or of an ONNX file, whose batch norms
    then see `pictures`, batches (n, 3, S, S) of raw BGR."""
    if init is None:
        return FaceDetector()
    if init.suffix == ".onnx":
        model = from_onnx(init)
        settle(model, list(pictures))
        return model
    model = FaceDetector()
    model.load_state_dict(torch.load(init, weights_only=True)["average"])  # float16 is widened
    return model
