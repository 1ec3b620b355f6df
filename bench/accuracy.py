"""How well the shipped embedders tell people apart: LFW View 2 (10 folds, each fold's threshold
from the other nine) and the true accept rate at 3 false accepts in the 3,000 impostor pairs; how
their embeddings cluster (`edgeface.cluster`) on LFW's 311 people with six pictures or more and on
the 46 people of the 105-person set's test half; how INT8 agrees with float. For every shipped
embedder and, with --peers, the original project's models. --quick: two folds, no clustering."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.cluster import cluster
from edgeface.embed import Embedder
from edgeface.metrics import (
    adjusted_rand_index,
    equal_error_rate,
    fowlkes_mallows,
    normalized_mutual_information,
    pairwise,
    tar_at_far,
    verification_accuracy,
)
from edgeface.models import cards
from edgeface.runtime import Runtime

Floats = NDArray[np.float32]
Embed = Callable[[NDArray[np.uint8]], Floats]
PEERS = {
    "fp32": "optim.onnx",
    "fp16": "openvino_fp16/optim.xml",
    "int8": "openvino_ptq/quantized_model.xml",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", type=Path, action="append", help="ONNX or OpenVINO IR to measure"
    )
    parser.add_argument("--peers", action="store_true", help="the original project's models too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runtime", default="auto", help="for the shipped models")


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


def folder_faces(root: Path, *, least: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures and person of every folder under `root` with `least` pictures or more."""
    people = [sorted(d.glob("*.webp")) for d in sorted(root.iterdir()) if d.is_dir()]
    people = [files for files in people if len(files) >= least]
    images = np.stack([cv2.imread(str(f)) for files in people for f in files])
    return images, np.repeat(np.arange(len(people)), [len(files) for files in people])


def grouped(embeddings: Floats, person: NDArray[np.int64]) -> dict[str, float]:
    """What `edgeface.cluster` makes of the embeddings: NMI, ARI, pairwise F, Fowlkes-Mallows (which
    the original's tables call pairwise F)."""
    labels = cluster(embeddings).labels
    return {
        "nmi": normalized_mutual_information(person, labels),
        "ari": adjusted_rand_index(person, labels),
        "pairwise_f": pairwise(person, labels).f,
        "fowlkes_mallows": fowlkes_mallows(person, labels),
    }


def shipped(runtime: Runtime, threads: int) -> dict[str, Embed]:
    """Every shipped embedder by report key: `fp32` and `int8` of the main network, `edge.fp32` and
    `edge.int8`, any other by its name."""
    known = {
        "mobilefacenet": "fp32",
        "mobilefacenet-int8": "int8",
        "mobilefacenet-edge": "edge.fp32",
        "mobilefacenet-edge-int8": "edge.int8",
    }
    return {
        known.get(c.name, c.name): Embedder.load(c.path, runtime=runtime, threads=threads)
        for c in cards()
        if c.task == "embedding"
    }


def models(args: argparse.Namespace) -> dict[str, Embed]:
    """Report key → embedder of every model asked for."""
    found: dict[str, Embed] = {}
    if args.model:
        for path in args.model:
            found[path.stem] = open_embedder(path, threads=args.threads)
    else:
        found = shipped(args.runtime, args.threads)
    if args.peers:
        peers = args.shared / "models" / "peers" / "original_mobilefacenet"
        for key, file in PEERS.items():
            found[f"original.{key}"] = open_embedder(peers / file, threads=args.threads)
    return found


def keyed(prefix: str, model: str, values: dict[str, float]) -> dict[str, float]:
    """`lfw.int8`, `edge.lfw.int8`, `lfw311.int8.nmi`: the model's variant goes to the front, its
    precision behind the figure or, for a data set, before it; a peer's figures stand behind its
    whole name, `original.int8.lfw`."""
    front, _, precision = model.rpartition(".")
    if front == "original":
        return {f"{model}.{prefix + '.' if prefix else ''}{k}": v for k, v in values.items()}
    front = f"{front}." if front else ""
    if prefix:
        return {f"{front}{prefix}.{precision}.{k}": v for k, v in values.items()}
    return {f"{front}{k}.{precision}": v for k, v in values.items()}


def figures(args: argparse.Namespace) -> dict[str, float | str | None]:
    data, found = args.shared / "data", models(args)
    images, index, same, fold = read_lfw(data / "lfw", folds=2 if args.quick else 10)
    out: dict[str, float | str | None] = {"lfw.pairs": float(len(same))}
    seen: dict[str, Floats] = {}
    for name, embed in found.items():
        print(f"accuracy: {name}, LFW", file=sys.stderr, flush=True)
        seen[name] = embed(images)
        out |= keyed("", name, verify(seen[name], index, same, fold))
    for name, embeddings in seen.items():
        front, _, precision = name.rpartition(".")
        whole = f"{front}.fp32" if front else "fp32"
        if precision == "int8" and whole in seen:
            cosine = (embeddings * seen[whole]).sum(1)
            values = {"mean": float(cosine.mean()), "min": float(cosine.min())}
            out |= keyed("cosine", name, values)
    if args.quick:
        return out
    sets = {"lfw311": (data / "lfw" / "aligned112", 6), "test105": (data / "pins" / "test", 1)}
    for key, (root, least) in sets.items():
        images, person = folder_faces(root, least=least)
        out[f"{key}.images"], out[f"{key}.people"] = float(len(images)), float(person[-1] + 1)
        for name, embed in found.items():
            print(f"accuracy: {name}, {key}", file=sys.stderr, flush=True)
            out |= keyed(key, name, grouped(embed(images), person))
    return out
