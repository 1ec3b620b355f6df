"""`python -m export fusion`: how the faces of one track become one template.

Describes simulated clips of the packed training pictures with an embedder (once, kept in a cache),
fits the closed forms, trains the cluster-and-aggregate network, and measures all of them on people
of whom neither has seen anything. The network is written beside the embedder, as
`MODEL.update.onnx` and `MODEL.readout.onnx`, and named in its card, only where it is better than
the best closed form by more than chance, or where --keep says so; else the card is left to the
closed form. --features takes tracks that somebody else embedded (see
`export.protocols.clips.Features.given`) in the place of simulated clips; --ablation needs the
latter.

The network is that of CAFace (Kim et al., NeurIPS 2022) with these changes: the state is made of
sums, so that any order and any chunking give one template; every frame is seen alone; tokens come
from the embedding and the quality of a face; the read-out knows the mass and the agreement of every
centre; what it reads out is the start of one power iteration, in training too. `--ablation` trains
it on CAFace's own tokens as well (styles of two inner stages and the norm of the embedding).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from edgeface.embed import DEFAULT
from edgeface.errors import DataError
from edgeface.metrics import Interval, tar_at_far
from edgeface.models import FileRef, FusionSpec, digest, load_card, write_card
from export.data import open_pack
from export.fusion_network import CENTRES, EDGE, WIDTH, Fusion, looks, train
from export.fusion_onnx import readout_graph, update_graph
from export.fusion_sets import (
    COLUMNS,
    FAR,
    FLOOR,
    SHIPPED,
    Closed,
    Crowd,
    Floats,
    Scale,
    Sets,
    choose,
    fit,
    fuse,
    held_out,
    score,
)
from export.protocols.clips import CLIPS, FRAMES, Describer, Features, describe
from export.protocols.intervals import interval
from export.threshold import rounded


def gain(one: list[Floats], other: list[Floats], sets: list[Sets], good: Floats) -> Interval:
    """Mean TAR over `COLUMNS` of templates less that of others, percent, with its 95 % interval
    (paired bootstrap over people)."""
    everybody, first = np.unique(np.concatenate([s[2] for s in sets]), return_index=True)
    gallery = good[np.concatenate([s[1] for s in sets])[first]]
    people = [np.searchsorted(everybody, who) for _, _, who in sets]
    ways = [[templates @ gallery.T for templates in way] for way in (one, other)]
    tars = [
        np.mean(
            [
                tar_at_far(values.ravel(), (who[:, None] == np.arange(len(gallery))).ravel(), FAR)
                for values, who in zip(way, people, strict=True)
            ]
        )
        for way in ways
    ]
    low, high = interval(ways[0], ways[1], people, len(gallery))
    return Interval(100 * float(tars[0] - tars[1]), low, high)


@torch.no_grad()
def fused_by(network: Fusion, features: Features, sets: list[Sets]) -> list[Floats]:
    """Templates of each list of sets."""
    return [network(features, rows).numpy() for rows, _, _ in sets]


def report(name: str, fused: list[Floats], sets: list[Sets], good: Floats) -> dict[str, float]:
    """Print and return TAR and rank-1 of every column of `COLUMNS`."""
    values = [
        score(t, people, good[clean]) for t, (_, clean, people) in zip(fused, sets, strict=True)
    ]
    cells = " ".join(f"{v['tar']:5.1f} {v['rank1']:5.1f} |" for v in values)
    mean = float(np.mean([v["tar"] for v in values]))
    print(f"fusion: {name:34s} {mean:6.2f} | {cells}", file=sys.stderr, flush=True)
    return {"tar": mean}


def to_onnx(network: Fusion, stem: Path, features: Features) -> FusionSpec:
    """Write both graphs of a network that goes by embeddings; what the card says of them."""
    seen = features.embedding[features.clip >= 0]
    graphs = {
        "update": update_graph(network.update, seen.mean(axis=0), seen.std(axis=0) + EDGE, FLOOR),
        "readout": readout_graph(network.readout),
    }
    files = {}
    for part, graph in graphs.items():
        file = stem.with_suffix(f".{part}.onnx")
        file.write_bytes(graph.SerializeToString())
        files[part] = FileRef(file, digest(file))
    return FusionSpec(CENTRES, WIDTH, files["update"], files["readout"])


def features_of(
    pack: Path, people: int | None, cache: Path | None, model: Path, digest: str
) -> Features:
    """What a cache of this model holds, or the clips of a pack described anew, and kept there."""
    file = cache and cache.with_name(f"{cache.stem}-{digest[:8]}.npz")
    if file and file.exists():
        return Features.load(file)
    data = open_pack(pack)
    rows = choose(data, people)
    cv2.setNumThreads(1)
    found = describe(
        Describer(model), data.images[rows], data.identity[rows], clips=CLIPS, frames=FRAMES
    )
    if file:
        found.save(file)
    return found


def compare(features: Features, args: argparse.Namespace) -> tuple[Fusion, dict[str, object]]:
    """Fit, train and measure everything; the network, and what the card may say of it."""
    people = np.unique(features.person)
    out = held_out(people)
    training, validation = Crowd(features, people[~out]), Crowd(features, people[out])
    scale, good = Scale.of(features), features.embedding
    sets = [validation.sets(n, share, seed=5, each=3) for n, share in COLUMNS]
    print("fusion: TAR@FAR=1e-3 and rank-1, columns", COLUMNS, file=sys.stderr)
    robust, plain = fit(training, scale)
    forms = {"average": Closed(), "quality": Closed(1.0), "norm": Closed(0.0, 1.0)}
    forms |= {"recognisability": Closed(0.0, 0.0, 0.5), "shipped closed form": SHIPPED}
    forms |= {"best mean": plain, "best closed form": robust}
    fused = {}
    for name, form in forms.items():
        weights = scale.weights(features, form)
        fused[name] = [fuse(good[rows], weights[rows], form) for rows, _, _ in sets]
        report(name, fused[name], sets, good)
    tokens: list[tuple[str, ...]] = [("embedding",)]
    if args.ablation:
        tokens += [("norm",), ("style",), ("style", "norm"), ("embedding", "norm")]
        tokens += [("embedding", "style", "norm")]
    networks = {}
    for names in tokens:
        networks[names] = train(training, looks(features, names), args.iterations)
        name = "learned, " + " + ".join(names)
        fused[name] = fused_by(networks[names], features, sets)
        report(name, fused[name], sets, good)
    learned = fused["learned, embedding"]
    better = {
        "best closed form": gain(learned, fused["best closed form"], sets, good),
        "average": gain(learned, fused["average"], sets, good),
    }
    for name, value in better.items():
        print(f"fusion: learned less {name}: {value}", file=sys.stderr)
    about: dict[str, object] = {
        "people": len(training.people) + len(training.strangers),
        "held_out_people": len(np.unique(np.concatenate([s[2] for s in sets]))),
        "gain_over_best_closed_form": dataclasses.asdict(better["best closed form"]),
        "gain_over_average": dataclasses.asdict(better["average"]),
        "best_closed_form": dataclasses.asdict(robust),
        "measured": "mean TAR at FAR 1e-3, percent, sets of 4 and 8 degraded frames against one "
        "good picture, 0, 10 and 30 % of another person's, held-out people",
    }
    return networks[("embedding",)], about


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export fusion", description=__doc__)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--pack", type=Path, help="crops packed by `export pack`")
    given.add_argument("--features", type=Path, help="tracks of your own; see below")
    parser.add_argument("--model", default=DEFAULT, help="name or file of the embedder")
    parser.add_argument("--cache", type=Path, help="keep the described clips beside this .npz")
    parser.add_argument("--people", type=int, help="train on so many, default all")
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument(
        "--keep", action="store_true", help="ship the network even where a closed form is better"
    )
    parser.add_argument("--ablation", action="store_true", help="train on other tokens too")
    args = parser.parse_args(argv)
    card = load_card(args.model, "embedding")
    try:
        features = (
            features_of(args.pack, args.people, args.cache, card.path, card.digest)
            if args.features is None
            else Features.given(args.features, card.size)
        )
        network, about = compare(features, args)
    except DataError as error:
        print(f"fusion: {error}", file=sys.stderr)
        return 1
    lead = about["gain_over_best_closed_form"]
    assert isinstance(lead, dict)
    fusion = None
    if lead["low"] > 0 or args.keep:
        fusion = dataclasses.replace(to_onnx(network, card.path, features), about=rounded(about))
        print("fusion: the network ships", file=sys.stderr)
    else:
        print("fusion: the closed form ships", file=sys.stderr)
    write_card(dataclasses.replace(card, fusion=fusion))
    print(json.dumps(about))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
