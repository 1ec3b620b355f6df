"""`python -m export spread CHECKPOINT`: use an embedding's directions more evenly, at no cost.

A network that imitates its teachers learns best what varies most among its training pictures: age,
sex, colour, pose. Those directions then outweigh the ones that tell two alike people apart. The
embeddings of training pictures are divided by a power of their standard deviation in each principal
direction: 1 would be whitening (all directions alike, Kessy, Lewin and Strimmer 2018, "ZCA", which
turns nothing), the default .5 lies in the middle. The map is linear, so it is folded into the last
layer. Figures on people and families that were held out are printed before and after; nothing is
fitted on them.

With `--towards START --share S` the weights are first mixed, S of them from the checkpoint that the
training began from: in between lies a network that knows most of both (Wortsman et al. 2022,
"Robust fine-tuning of zero-shot models").
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.aims import Floats, units
from export.data import Pack, hold_out, open_pack
from export.further import lengthened
from export.heldout import embed, watch_of
from export.networks.mobilefacenet import Head, MobileFaceNet
from export.teachers import to_input
from export.to_onnx import load_network
from export.training import as_tensor, save

FLOOR = 0.1  # of the mean variance, below which a direction counts as noise and is not raised more


def spreading(rows: Floats, power: float) -> NDArray[np.float64]:
    """The symmetric map (d, d) that evens out unit rows (n, d): power 0 nothing, 1 whitening. It
    leaves the mean square length of `rows` as it is."""
    variance, directions = np.linalg.eigh(np.cov(rows.T.astype(np.float64)))
    variance = np.maximum(variance, 0)
    factor = (variance + FLOOR * variance.mean()) ** (-power / 2)
    made = directions * factor @ directions.T
    before, after = np.square(rows).sum(), np.square(rows @ made).sum()
    return np.asarray(made * np.sqrt(before / after))


@torch.no_grad()
def fold(network: MobileFaceNet, made: NDArray[np.float64]) -> None:
    """Let the network's embedding be `made` times what it was, in place."""
    head = network.blocks["head"]
    assert isinstance(head, Head)
    norm, linear, then = head.norm, head.linear, torch.from_numpy(made)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    linear.weight.copy_(then @ (scale[:, None] * linear.weight.double()))
    norm.running_mean.zero_()
    norm.running_var.fill_(1.0)
    norm.weight.fill_(float(np.sqrt(1 + norm.eps)))
    norm.bias.copy_(then @ shift)


@torch.no_grad()
def mix(network: MobileFaceNet, start: MobileFaceNet, share: float, images: Tensor) -> None:
    """Let every weight of `network` be its own and, to a `share` of 0 to 1, that of `start`, in
    place; of either as it is when its embeddings of `images` are one long on average."""
    for one in (network, start):
        lengthened(one, 1 / float(one.eval()(images).norm(dim=1).mean()))
    other = start.state_dict()
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.lerp_(other[name], share)


def some(data: Pack, count: int, seed: int) -> NDArray[np.int64]:
    """Rows of pictures to fit on: of labelled people, none held out, six of a person at most."""
    rows = np.flatnonzero(~hold_out(data) & data.keep & (data.identity >= 0))
    rows = np.random.default_rng(seed).permutation(rows)
    order = np.argsort(data.identity[rows], kind="stable")
    of = data.identity[rows][order]
    first = np.searchsorted(of, of)  # where the person begins
    kept = np.sort(rows[order[np.arange(len(of)) - first < 6]])
    return np.sort(np.random.default_rng(seed).permutation(kept)[:count])


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export spread", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="of `export init` or `export further`")
    parser.add_argument("--pack", type=Path, required=True, help="pack made by `export pack`")
    parser.add_argument("--out", type=Path, required=True, help="target checkpoint .pt")
    parser.add_argument("--power", type=float, default=0.5, help="0 to 1, see above")
    parser.add_argument("--towards", type=Path, help="checkpoint to mix with first")
    parser.add_argument("--share", type=float, default=0.25, help="of its weights, 0 to 1")
    parser.add_argument("--pictures", type=int, default=9000, help="to fit on")
    parser.add_argument("--watch", type=int, default=1000, help="held-out pictures looked at a set")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    for name in ("power", "share"):
        if not 0 <= getattr(args, name) <= 1:
            parser.error(f"--{name} is {getattr(args, name)}, expected 0 to 1")
    for path in (args.checkpoint, args.pack.with_suffix(".npy"), args.towards or args.checkpoint):
        if not path.exists():
            print(f"spread: no file {path}", file=sys.stderr)
            return 2
    torch.set_num_threads(args.threads)
    network, about = load_network(args.checkpoint)
    data = open_pack(args.pack)
    rows = some(data, args.pictures, args.seed)
    if args.towards:
        start, of = load_network(args.towards)
        if of["network"] != about["network"]:
            print(
                f"spread: {args.towards} is of {of['network']}, {args.checkpoint} of "
                f"{about['network']}: weights are mixed within one network only",
                file=sys.stderr,
            )
            return 2
        mix(network, start, args.share, as_tensor(to_input(np.asarray(data.images[rows[::50]]))))
    watch = watch_of(data, args.watch)
    print(json.dumps({"power": 0} | watch.figures(network)), flush=True)
    fold(network, spreading(units(embed(network, np.asarray(data.images[rows]))), args.power))
    print(json.dumps({"power": args.power} | watch.figures(network)))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save(args.out, network=about["network"], phase="spread", step=0, student=network.state_dict())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
