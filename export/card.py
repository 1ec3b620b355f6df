"""`python -m export card`: measure a shipped embedder and write its card beside it.

The default threshold comes from training identities that were held out (never from a test set):
the lowest cosine at which one impostor pair in 10,000 is accepted, or one in all where there are
fewer. `--checkpoint` says who was held out where the training kept to another pack. With `--labels`
(see `export.groups`) the card also says how often two people of one age or origin pass for one
another at that threshold, held-out pictures alone. An .xml and .bin beside the .onnx become the
card's file for OpenVINO. `--house` states the data the shipped models were trained on; other
models' cards say what `--data` and `--terms` say.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.document import Json
from edgeface.errors import EdgefaceError
from edgeface.metrics import binomial_interval
from edgeface.models import (
    Group,
    read_card,
    write_card,
)
from export.data import Pack, hold_out, open_pack
from export.groups import judged, read_labels, sets_of, strangers
from export.protocols.embedders import open_embedder
from export.protocols.identities import Embed
from export.protocols.lfw import read_lfw, verify
from export.threshold import UNPROTECTED, card_of, measure, rounded, unprotected

DATA = {
    "CelebA": "non-commercial research; faces detected and aligned to 112×112",
    "105-classes-pins (training part)": "no terms stated; names occurring in LFW left out",
    "UTKFace": "non-commercial research",
    "UTKFace, the rest": "non-commercial research",
    "Families in the Wild": "research; people near LFW's left out, whole families held out",
    "All-Age-Faces": "research; no identities",
    "face-mask sets (karim, chandrikadeb7, prajnasb, scenes_853, techyhoney, rmfd)": (
        "research; several state no terms"
    ),
    "humans72k, real_zoya2244, mps, caltech_faces, team_18f, issap_nasa, rladies": (
        "public photographs; terms vary or are not stated"
    ),
}
LICENCE = "research only: research-only pictures and non-commercial teachers"
EXCLUDED = "identities named in or resembling (cosine > 0.6 of means) LFW or the 105-identity test"
TEACHERS = {
    "mobilefacenet_y1": "insightface model zoo, non-commercial research",
    "edgeface_xs": "code BSD-3, weights published as non-commercial",
    "w600k_mbf": "insightface model zoo, non-commercial research",
    "mobileface_v2": "MIT repository",
}


FEWEST_PICTURES = 30  # of a group; they make 435 pairs


def fastest(model: Path) -> Path:
    """The file OpenVINO would load: the .xml beside the model, or the model."""
    ir = model.with_suffix(".xml")
    return ir if ir.exists() else model


def held_rows(data: Pack, checkpoint: Path | None) -> NDArray[np.bool_]:
    """The rows of a pack that were kept from training: those of the people whom the checkpoint
    names, or whom every training keeps from itself."""
    if checkpoint is None:
        return hold_out(data) & data.keep
    from export.checkpoint import read_checkpoint  # with torch, which the rest does without

    names = read_checkpoint(checkpoint).get("held_out")
    if not isinstance(names, list):
        raise EdgefaceError(f"{checkpoint} does not say who was held out: leave --checkpoint out")
    if missing := sorted(set(names) - set(data.names)):
        raise EdgefaceError(
            f"{len(missing)} people whom {checkpoint} held out are not in the pack, {missing[0]!r} "
            "among them: give the pack it was trained on"
        )
    numbers = [data.names.index(name) for name in names]
    return np.isin(data.identity, numbers) & data.keep


def group_rates(
    pack: Path,
    data: Pack,
    embed: Embed,
    held: NDArray[np.bool_],
    threshold: float,
    args: argparse.Namespace,
) -> tuple[Group, ...]:
    """How often two held-out people of one group reach the threshold, worst group first."""
    if not args.labels:
        return ()
    found = []
    for people in sets_of(data, read_labels(args.labels)):
        people = people.take(np.flatnonzero(held[people.rows]))
        if not people.groups or not len(people.rows):
            continue
        rows = embed(np.asarray(data.images[people.rows]))
        apart = strangers(people, judged(pack, args.judge, data, people.rows))
        for name, mask in people.groups.items():
            some = np.flatnonzero(mask)
            if len(some) < FEWEST_PICTURES:
                continue
            pairs = np.triu(apart[np.ix_(some, some)], 1)
            passed = int(((rows[some] @ rows[some].T >= threshold) & pairs).sum())
            rate = binomial_interval(passed, int(pairs.sum()))
            found.append(Group(f"{people.name}: {name}", rounded(rate), int(pairs.sum())))
    return tuple(sorted(found, key=lambda group: -group.rate.value))


def commit() -> str:
    answer = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        text=True,
        capture_output=True,
        check=False,
    )
    return answer.stdout.strip() or "unknown"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export card", description=__doc__)
    parser.add_argument("model", type=Path, help="ONNX file in edgeface/weights")
    parser.add_argument("--pack", type=Path, required=True, help="the training pack")
    parser.add_argument("--lfw", type=Path, help="folder with pairs.txt and aligned112")
    parser.add_argument("--house", action="store_true", help="trained on the data named in here")
    parser.add_argument("--data", default="pictures of whoever trained it", help="what it saw")
    parser.add_argument("--terms", default="as its pictures allow", help="licence of the file")
    parser.add_argument("--backbone", default="MobileFaceNet")
    parser.add_argument("--precision", default="fp32 arithmetic, fp16 weights")
    parser.add_argument("--teacher", action="append", default=[], help="teacher file stems")
    parser.add_argument("--phases", default="", help="how it was trained, in words")
    parser.add_argument("--checkpoint", type=Path, help="what the model was exported from")
    parser.add_argument("--labels", type=Path, nargs="*", default=[], help="CSV files of groups")
    parser.add_argument("--judge", type=Path, help="stronger embedder: tells who may be the same")
    parser.add_argument(
        "--only-groups", action="store_true", help="bring the groups of an existing card up to date"
    )
    args = parser.parse_args(argv)
    data = open_pack(args.pack)
    embed = open_embedder(fastest(args.model))
    held = held_rows(data, args.checkpoint)
    if args.only_groups:
        card = read_card(args.model.with_suffix(".json"))
        groups = group_rates(args.pack, data, embed, held, card.threshold.value, args)
        base = card.derivation.partition(UNPROTECTED)[0]
        write_card(replace(card, groups=groups, derivation=base + unprotected(groups)))
        print(json.dumps({group.name: rounded(group.rate.value) for group in groups}))
        return 0
    rows = np.flatnonzero(held & (data.identity >= 0))
    found = measure(data, embed, rows, "held-out training identities")
    metrics = dict(found.metrics)
    if args.lfw:
        measured = verify(embed((lfw := read_lfw(args.lfw))[0]), *lfw[1:])
        metrics |= {
            "lfw_accuracy": round(measured["lfw"] / 100, 5),
            "lfw_std": round(measured["lfw_std"] / 100, 5),
            "tar_at_far_1e-3": round(measured["tar_at_far1e-3"] / 100, 5),
        }
    groups = group_rates(args.pack, data, embed, held, found.threshold, args)
    training: dict[str, Json] = {
        "data": dict(DATA) if args.house else args.data,
        "pictures": int((~held & data.keep).sum()),
        "teachers": {t: TEACHERS.get(t, "unknown terms") for t in args.teacher},
        "phases": args.phases,
        "excluded": EXCLUDED if args.house else "",
        "commit": commit(),
    }
    card = card_of(
        args.model,
        found,
        groups=groups,
        license=LICENCE if args.house else args.terms,
        about={
            "bytes": args.model.stat().st_size,
            "precision": args.precision,
            "backbone": args.backbone,
            "training": training,
            "metrics": metrics,
        },
    )
    write_card(card)
    print(json.dumps(metrics | {"threshold": card.threshold.value}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
