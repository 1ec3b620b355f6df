"""`python -m export card`: measure a shipped embedder and write its card beside it.

The default threshold comes from training identities that were held out (never from a test set):
the lowest cosine at which one impostor pair in 10,000 is accepted, or one in all where there are
fewer. An .xml and .bin beside the .onnx become the card's file for OpenVINO. `--house` states the
data the shipped models were trained on; other models' cards say what `--data` and `--terms` say.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.calibrate import calibrate
from edgeface.document import Json
from edgeface.metrics import Interval, tar_at_far, threshold_at_far
from edgeface.models import FileRef, Impostors, InputSpec, ModelCard, digest, write_card
from edgeface.types import Threshold
from export.data import Pack, hold_out, open_pack
from export.protocols.embedders import open_embedder
from export.protocols.identities import Embed
from export.protocols.lfw import read_lfw, verify

DATA = {
    "CelebA": "non-commercial research; faces detected and aligned to 112×112",
    "105-classes-pins (training part)": "no terms stated; names occurring in LFW left out",
    "UTKFace": "non-commercial research",
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
    "mobileface_v2": "MIT repository",
}


def held_out_pairs(
    data: Pack, embeddings: NDArray[np.float32], rows: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Cosine and truth of every pair among `rows`, whose embeddings are given in that order."""
    similarity = embeddings @ embeddings.T
    upper = np.triu_indices(len(rows), 1)
    person = data.identity[rows]
    return similarity[upper], person[upper[0]] == person[upper[1]]


def small_probes(images: NDArray[np.uint8], size: int = 24) -> NDArray[np.uint8]:
    """The same crops as a far camera would have given them: `size` pixels wide, scaled up again."""
    out = np.empty_like(images)
    for i, image in enumerate(images):
        small = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        out[i] = cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return out


def small_probe_tar(
    data: Pack, embed: Embed, rows: NDArray[np.int64], clean: NDArray[np.float32]
) -> float:
    """TAR at FAR 1e-3 of `small_probes` of `rows` against the other pictures, whose embeddings are
    `clean`; nan where too few people have a second picture."""
    similarity = embed(small_probes(np.asarray(data.images[rows]))) @ clean.T
    person = data.identity[rows]
    pairs = ~np.eye(len(rows), dtype=bool)
    same = (person[:, None] == person[None])[pairs]
    return tar_at_far(similarity[pairs], same, 1e-3) if same.any() else float("nan")


def rounded(value: Any) -> Any:
    """Six digits of every number: a card is read by people."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Interval):
        return Interval(*(rounded(v) for v in astuple(value)))
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return type(value)(map(rounded, value)) if isinstance(value, list | tuple) else value


def fastest(model: Path) -> Path:
    """The file OpenVINO would load: the .xml beside the model, or the model."""
    ir = model.with_suffix(".xml")
    return ir if ir.exists() else model


def rate(pairs: int) -> float:
    """The FPIR a table of so many impostor pairs supports: 1e-3, or the rule of three's."""
    return max(1e-3, 3.0 / max(1, pairs))


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
    args = parser.parse_args(argv)
    data = open_pack(args.pack)
    embed = open_embedder(fastest(args.model))
    rows = np.flatnonzero(hold_out(data) & data.keep & (data.identity >= 0))
    clean = embed(np.asarray(data.images[rows]))
    similarity, same = held_out_pairs(data, clean, rows)
    pairs = int((~same).sum())
    far = max(1e-4, 1 / max(1, pairs))
    threshold = threshold_at_far(similarity[~same], far)
    people = len(np.unique(data.identity[rows]))
    metrics: dict[str, Json] = {
        "held_out_tar_at_far_1e-4": round(tar_at_far(similarity, same, far), 5),
        "held_out_24px_tar_at_far_1e-3": round(small_probe_tar(data, embed, rows, clean), 5),
    }
    if args.lfw:
        measured = verify(embed((lfw := read_lfw(args.lfw))[0]), *lfw[1:])
        metrics |= {
            "lfw_accuracy": round(measured["lfw"] / 100, 5),
            "lfw_std": round(measured["lfw_std"] / 100, 5),
            "tar_at_far_1e-3": round(measured["tar_at_far1e-3"] / 100, 5),
        }
    # What `Calibration.default_at` reads: impostor pairs, that is searches in a gallery of one.
    curve = calibrate(similarity[~same], fpir=rate(pairs), size=1)
    impostors = Impostors(*(rounded(getattr(curve, f.name)) for f in fields(Impostors)))
    training: dict[str, Json] = {
        "data": dict(DATA) if args.house else args.data,
        "pictures": int((~hold_out(data) & data.keep).sum()),
        "teachers": {t: TEACHERS.get(t, "unknown terms") for t in args.teacher},
        "phases": args.phases,
        "excluded": EXCLUDED if args.house else "",
        "commit": commit(),
    }
    ir = args.model.with_suffix(".xml")
    card = ModelCard(
        name=args.model.stem,
        task="embedding",
        path=args.model,
        digest=digest(args.model),
        size=len(embed(np.asarray(data.images[:1]))[0]),
        threshold=Threshold(round(float(threshold), 4), "card"),
        derivation=f"cosine at FAR {far:.0e} over {pairs:,} impostor pairs of {people} "
        "held-out training identities",
        input=InputSpec("image", size=(112, 112)),
        outputs={"embedding": "embedding", "norm": "norm"},
        alignment="arcface-112",
        license=LICENCE if args.house else args.terms,
        impostors=impostors,
        variants={"openvino": FileRef(ir, digest(ir))} if ir.exists() else {},
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
