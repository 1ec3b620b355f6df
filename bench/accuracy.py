"""How well the shipped embedders tell people apart: LFW View 2 (10 folds, each fold's threshold
from the other nine) and the true accept rate at 3 false accepts in the 3,000 impostor pairs; for
every embedder card in edgeface/weights and, with --peers, the original project's models."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.metrics import equal_error_rate, tar_at_far, verification_accuracy

Floats = NDArray[np.float32]
Embed = Callable[[NDArray[np.uint8]], Floats]
WEIGHTS = Path(__file__).parents[1] / "edgeface" / "weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", type=Path, action="append", help="ONNX or OpenVINO IR to measure"
    )
    parser.add_argument("--peers", action="store_true", help="the original project's models too")
    parser.add_argument("--threads", type=int, default=2)


def open_embedder(path: Path, *, threads: int = 2, batch: int = 32) -> Embed:
    """(n, 112, 112, 3) uint8 BGR → (n, d) unit rows, by OpenVINO in float32; the original project's
    files, which want (x − 127.5) / 127.5 and one picture at a time, are told by their folder."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(str(path))
    foreign = "peers" in path.parts
    teacher = {"edgeface_xs": True}.get(path.stem, foreign)
    model.reshape([batch, 3, 112, 112] if not foreign else [1, 3, 112, 112])
    size = 1 if foreign else batch
    compiled = core.compile_model(
        model,
        "CPU",
        {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"},
    )

    def embed(images: NDArray[np.uint8]) -> Floats:
        rows = []
        for i in range(0, len(images), size):
            x = images[i : i + size, ..., ::-1].transpose(0, 3, 1, 2).astype(np.float32)
            if teacher:
                x = (x - 127.5) / 127.5
            pad = np.zeros((size - len(x), *x.shape[1:]), np.float32)
            rows.append(np.array(compiled(np.concatenate([x, pad]))[0])[: len(x)])
        out = np.concatenate(rows)
        unit: Floats = out / np.linalg.norm(out, axis=1, keepdims=True)
        return unit

    return embed


def lfw_pairs(file: Path, folds: int = 10) -> list[tuple[str, str, bool, int]]:
    """(first, second, same, fold) of the official pairs file; pictures as NAME/NAME_0001."""
    lines = file.read_text().splitlines()
    per_fold = 2 * int(lines[0].split()[1])
    pairs = []
    for i, line in enumerate(line for line in lines[1:] if line.strip()):
        f = line.split("\t")
        if len(f) == 3:
            a, b = (f[0], f[1]), (f[0], f[2])
        else:
            a, b = (f[0], f[1]), (f[2], f[3])
        names = [f"{n}/{n}_{int(k):04d}" for n, k in (a, b)]
        if i // per_fold < folds:
            pairs.append((names[0], names[1], len(f) == 3, i // per_fold))
    return pairs


def read_lfw(
    root: Path, *, folds: int = 10
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Pictures, (pairs, 2) row numbers, same, fold."""
    pairs = lfw_pairs(root / "pairs.txt", folds)
    names = sorted({n for a, b, *_ in pairs for n in (a, b)})
    row = {n: i for i, n in enumerate(names)}
    images = np.stack([cv2.imread(str(root / "aligned112" / f"{n}.webp")) for n in names])
    index = np.array([[row[a], row[b]] for a, b, *_ in pairs])
    same = np.array([s for *_, s, _ in pairs])
    return images, index, same, np.array([f for *_, f in pairs])


def verify(
    embeddings: Floats, index: NDArray[np.int64], same: NDArray[np.bool_], fold: NDArray[np.int64]
) -> dict[str, float]:
    """Accuracy in percent (mean, standard deviation over the folds), TAR at FAR 1e-3, EER."""
    similarity = (embeddings[index[:, 0]] * embeddings[index[:, 1]]).sum(1)
    accuracy = verification_accuracy(similarity, same, fold)
    return {
        "lfw": float(100 * accuracy.mean()),
        "lfw_std": float(100 * accuracy.std()),
        "tar_at_far1e-3": float(100 * tar_at_far(similarity, same, 1e-3)),
        "eer": float(100 * equal_error_rate(similarity, same)),
    }


def models(args: argparse.Namespace) -> dict[str, Path]:
    """Key suffix → file of every model asked for."""
    found: dict[str, Path] = {}
    for card in sorted(WEIGHTS.glob("*.json")):
        about = json.loads(card.read_text())
        if about.get("task") == "embedding":
            found[card.stem] = card.with_name(about["file"])
    if args.model:
        found = {p.stem: p for p in args.model}
    if args.peers:
        peers = args.shared / "models" / "peers" / "original_mobilefacenet"
        found["original.fp32"] = peers / "optim.onnx"
        found["original.fp16"] = peers / "openvino_fp16" / "optim.xml"
        found["original.int8"] = peers / "openvino_ptq" / "quantized_model.xml"
    return found


# Report keys of the main embedder's precisions; every other model reports under its own name.
PRIMARY = {"mobilefacenet": "fp32", "mobilefacenet-int8": "int8"}


def figures(args: argparse.Namespace) -> dict[str, float | str | None]:
    images, index, same, fold = read_lfw(
        args.shared / "data" / "lfw", folds=2 if args.quick else 10
    )
    out: dict[str, float | str | None] = {"lfw.pairs": float(len(same))}
    for name, path in models(args).items():
        print(f"accuracy: {name}", file=sys.stderr, flush=True)
        embeddings = open_embedder(path, threads=args.threads)(images)
        values = verify(embeddings, index, same, fold)
        if name in PRIMARY and not args.model:
            key = PRIMARY[name]
            out |= {f"{figure}.{key}": value for figure, value in values.items()}
        elif name.startswith("mobilefacenet-edge"):
            key = "int8" if name.endswith("int8") else "fp32"
            out |= {f"edge.{figure}.{key}": value for figure, value in values.items()}
        else:
            out |= {f"{name}.{figure}": value for figure, value in values.items()}
    return out
