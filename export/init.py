"""`python -m export init`: a shipped ONNX embedder as a checkpoint that can be trained further.

The file holds folded convolutions and, for ONNX Runtime, PReLU as relu(y) + b·y. Both are undone
exactly: relu(y) + b·y = prelu((1 + b)·y) with slope b/(1 + b). Batch normalisation is put back with
the statistics its input has on pictures, so that the network says what it said, and trains as one
that was never folded.

`--network` begins a deeper network of the family from it, as mobilefacenetv2 from mobilefacenet:
the blocks of both are taken over and the further ones do nothing at first, so the network says
what the file says before it has seen a picture (Chen, Goodfellow and Shlens 2016, "Net2Net").
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from export.data import open_pack
from export.networks.mobilefacenet import (
    SPECS,
    Bottleneck,
    ConvBN,
    Head,
    MeshBlock,
    MobileFaceNet,
    build,
)
from export.teachers import to_input
from export.training import as_tensor, save

Array = NDArray[np.float32]
Norm = nn.BatchNorm2d | nn.BatchNorm1d


class InitError(ValueError):
    """The file is not one of this family's networks."""


def constants(model: onnx.ModelProto) -> dict[str, Array]:
    """Every weight of a graph by name, as float32; `.f16` of half weights is left out."""
    return {
        w.name.removesuffix(".f16"): numpy_helper.to_array(w).astype(np.float32)
        for w in model.graph.initializer
    }


def network_of(weights: dict[str, Array]) -> str:
    """The name of the network whose layers the file has.

    Raises:
        InitError: none of `SPECS` has just these layers.
    """
    have = {n.removesuffix(".weight"): w.shape for n, w in weights.items() if n.endswith(".weight")}
    for name in SPECS:
        layers = {layer: conv.weight.shape for layer, conv, _, _ in layers_of(build(name))}
        if set(layers) == set(have) and all(
            int(np.prod(have[layer])) == shape.numel() for layer, shape in layers.items()
        ):
            return name
    raise InitError(
        f"its layers are those of no network here ({', '.join(SPECS)}); "
        "a float file that `export onnx` wrote is needed"
    )


Layer = tuple[str, nn.Conv2d | nn.Linear, Norm | None, nn.Module | None]


def layers_of(network: MobileFaceNet) -> list[Layer]:
    """(name as `folded` gives it, convolution, its normalisation, its activation), in order."""
    rows: list[Layer] = []

    def add(name: str, part: ConvBN) -> None:
        convolution, norm = part[0], part[1]
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        rows.append((name, convolution, norm, part[2] if len(part) > 2 else None))

    for name, block in network.blocks.items():
        if isinstance(block, Bottleneck):
            for part in ("expand", "depthwise", "project"):
                add(f"{name}.{part}", getattr(block, part))
        elif isinstance(block, MeshBlock):
            rows.append((f"{name}.depthwise", block.depthwise, None, None))
            rows.append((f"{name}.pointwise", block.pointwise, block.norm, block.activation))
        elif isinstance(block, Head):
            add(f"{name}.expand", block.expand)
            add(f"{name}.pool", block.pool)
            rows.append((f"{name}.linear", block.linear, block.norm, None))
        else:
            assert isinstance(block, nn.Sequential)
            for i, part in enumerate(block):
                assert isinstance(part, ConvBN)
                add(f"{name}.{i}", part)
    return rows


def unfold(weights: dict[str, Array], images: NDArray[np.uint8]) -> tuple[str, MobileFaceNet]:
    """The network a float ONNX file was made of, in evaluation mode, and its name.

    Args:
        weights: of `constants`.
        images: (n, 112, 112, 3) uint8 BGR, on which the normalisations' statistics are measured;
            some hundred faces.

    Raises:
        InitError: the file is of no known network.
    """
    name = network_of(weights)
    network = build(name).eval()
    layers = layers_of(network)
    with torch.no_grad():
        for layer, convolution, norm, activation in layers:
            linear = weights.get(f"{layer}.linear")
            factor = np.ones(1, np.float32) if linear is None else 1 + linear.ravel()
            bias = torch.from_numpy(weights[f"{layer}.bias"] * factor)
            weight = torch.from_numpy(weights[f"{layer}.weight"]).view(convolution.weight.shape)
            shape = (-1,) + (1,) * (weight.ndim - 1)
            convolution.weight.copy_(weight * torch.from_numpy(factor).view(shape))
            if isinstance(activation, nn.PReLU):
                slope = weights.get(f"{layer}.slope")
                slope = linear.ravel() / factor if linear is not None else slope
                activation.weight.copy_(torch.from_numpy(np.asarray(slope)).ravel())
            if norm is None:
                assert convolution.bias is not None
                convolution.bias.copy_(bias)
            else:
                norm.weight.fill_(float(np.sqrt(1 + norm.eps)))
                norm.bias.copy_(bias)
        measure(network, layers, images)
    return name, network


@torch.no_grad()
def deepened(network: MobileFaceNet, name: str) -> MobileFaceNet:
    """The network `name` of `SPECS`, in evaluation mode, that says what `network` says: the blocks
    of both are `network`'s, further ones give their input back until they are trained.

    Raises:
        InitError: `name` lacks a block of `network`, or has a further one that cannot give its
            input back.
    """
    deeper = build(name)
    blocks = dict(deeper.blocks.items())
    for block, module in network.blocks.items():
        own = blocks.pop(block, None)
        shapes = [
            {k: v.shape for k, v in m.state_dict().items()} if m else {} for m in (module, own)
        ]
        if own is None or shapes[0] != shapes[1]:
            raise InitError(f"{name} has no block {block} like that of the file's network")
        own.load_state_dict(module.state_dict())
    for block, module in blocks.items():
        if not isinstance(module, MeshBlock) or not isinstance(module.activation, nn.PReLU):
            raise InitError(f"the block {block} of {name} cannot begin from nothing")
        nn.init.zeros_(module.norm.weight)  # its gradient is not zero, so the branch comes alive
        nn.init.ones_(module.activation.weight)
    return deeper.eval()


def measure(network: MobileFaceNet, layers: list[Layer], images: NDArray[np.uint8]) -> None:
    """Give every normalisation the mean and variance of its input on `images`, and the scale and
    shift under which its output stays what it was."""
    sums: dict[str, Tensor] = {}

    def hook(name: str) -> object:
        def note(_: nn.Module, __: object, out: Tensor) -> None:
            rows = out.transpose(0, 1).flatten(1).double()
            count = torch.full_like(rows[:, 0], rows.shape[1])
            total = torch.stack([rows.sum(1), rows.square().sum(1), count])
            sums[name] = sums[name] + total if name in sums else total

        return note

    handles = [conv.register_forward_hook(hook(name)) for name, conv, norm, _ in layers if norm]  # type: ignore[arg-type]
    with torch.no_grad():
        for i in range(0, len(images), 50):
            network(as_tensor(to_input(images[i : i + 50])))
        for handle in handles:
            handle.remove()
        for name, _, norm, _ in layers:
            if norm is None:
                continue
            mean, square = sums[name][:2] / sums[name][2]
            assert norm.running_mean is not None
            assert norm.running_var is not None
            variance = (square - mean.square()).clamp(min=0)
            scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            shift = norm.bias.double() - norm.running_mean.double() * scale
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
            norm.weight.copy_(scale * (variance + norm.eps).sqrt())
            norm.bias.copy_(shift + mean * scale)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export init", description=__doc__)
    parser.add_argument("--from", dest="file", type=Path, required=True, help="float ONNX file")
    parser.add_argument("--pack", type=Path, required=True, help="pictures for the statistics")
    parser.add_argument("--out", type=Path, required=True, help="target checkpoint .pt")
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--network", choices=list(SPECS), help="begin this deeper network instead")
    args = parser.parse_args(argv)
    for path in (args.file, args.pack.with_suffix(".npy")):
        if not path.exists():
            print(f"init: no file {path}", file=sys.stderr)
            return 2
    images = open_pack(args.pack).images
    chosen = np.sort(np.random.default_rng(0).permutation(len(images))[: args.pictures])
    try:
        name, network = unfold(constants(onnx.load(str(args.file))), np.asarray(images[chosen]))
        if args.network:
            name, network = args.network, deepened(network, args.network)
    except (InitError, KeyError) as error:
        print(f"init: {args.file} cannot be trained further: {error}", file=sys.stderr)
        return 1
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save(args.out, network=name, phase="init", step=0, student=network.state_dict())
    print(f"init: {args.out}, {name}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
