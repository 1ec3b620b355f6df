"""Size and speed of the shipped embedders beside the original project's, in one interleaved run.

Every configuration runs in turn, many short rounds; the figure is the median over the rounds of
process CPU seconds (one thread, pinned to one core) or wall seconds (`--threads` > 1) per picture,
so that a loaded machine slows every configuration alike. `ratio_to_original` compares equal runtime
and precision: INT8 with the original's INT8, FP32 with its FP32. A batch of 32 is one batch in
OpenVINO; in ONNX Runtime it is what `Embedder` makes of 32 faces there, a few at a time, which its
caches prefer (the original's ONNX file takes one at a time). The pictures are 32 faces of LFW, in
turn: on a picture of one colour ONNX Runtime's PRelu, which branches by sign, is twice as fast as
on faces.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.embed import batches_for
from edgeface.models import cards
from export.protocols.embedders import original, size_mb

Run = Callable[[], object]
Pictures = NDArray[np.float32]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 32])


def pictures(shared: Path) -> Pictures:
    """32 faces of LFW, evenly drawn, (32, 3, 112, 112) RGB 0..255; noise where LFW is absent."""
    files = sorted((shared / "data" / "lfw" / "aligned112").glob("*/*.webp"))
    if not files:
        noise = np.random.default_rng(0).uniform(0, 255, (32, 3, 112, 112))
        return noise.astype(np.float32)
    drawn = [files[i] for i in np.linspace(0, len(files) - 1, 32).astype(int)]
    faces = np.stack([np.asarray(cv2.imread(str(f)), np.uint8) for f in drawn])
    return np.ascontiguousarray(faces[..., ::-1].transpose(0, 3, 1, 2), np.float32)


def in_turn(faces: Pictures, batch: int) -> Iterator[Pictures]:
    """Batches of the faces, for ever."""
    return itertools.cycle([faces[i : i + batch] for i in range(0, len(faces), batch)])


def by_openvino(path: Path, batch: int, threads: int, faces: Pictures) -> Run:
    import openvino as ov

    core = ov.Core()
    model = core.read_model(str(path))
    model.reshape([batch, 3, 112, 112])
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = core.compile_model(model, "CPU", settings)
    given = in_turn(faces, batch)
    return lambda: compiled(next(given))


def by_onnxruntime(path: Path, batch: int, threads: int, faces: Pictures) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    first = session.get_inputs()[0]
    own = next(b for b in batches_for("onnxruntime") if b <= batch)
    at_once = first.shape[0] if isinstance(first.shape[0], int) else own
    given = in_turn(faces, at_once)
    return lambda: [session.run(None, {first.name: next(given)}) for _ in range(batch // at_once)]


def shipped(runtime: str) -> dict[str, Path]:
    """`fp32` and `int8` of the main embedder, `edge.fp32` and `edge.int8`, as far as shipped: the
    file of each that a runtime loads."""
    known = {
        "mobilefacenet": "fp32",
        "mobilefacenet-int8": "int8",
        "mobilefacenet-edge": "edge.fp32",
        "mobilefacenet-edge-int8": "edge.int8",
    }
    return {known[c.name]: c.file_for(runtime) for c in cards() if c.name in known}


def measure(
    runs: dict[str, Run], batch: int, rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Median seconds per picture, the runs taking turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            began = clock()
            run()
            times[name].append((clock() - began) / batch)
    return {name: float(np.median(t)) for name, t in times.items()}


def named(key: str, figure: str) -> str:
    """`edge.int8` and `speed.openvino` to `edge.speed.openvino.int8`."""
    front, _, precision = key.rpartition(".")
    return f"{front + '.' if front else ''}{figure}.{precision}"


def speeds(
    shared: Path, *, batches: list[int], threads: int, rounds: int
) -> dict[str, float | str | None]:
    """Pictures per second of every file in both runtimes and the ratio to the original's."""
    if threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    faces = pictures(shared)
    scaled = (faces - 127.5) / 127.5  # as the original's files take them
    clock = time.process_time if threads == 1 else time.perf_counter
    out: dict[str, float | str | None] = {}
    for batch in batches:
        for runtime, make in (("openvino", by_openvino), ("onnxruntime", by_onnxruntime)):
            files = {f"original.{k}": p for k, p in original(shared).items()} | shipped(runtime)
            runs = {
                key: make(path, batch, threads, scaled if key.startswith("original.") else faces)
                for key, path in files.items()
                if runtime == "openvino" or path.suffix == ".onnx"
            }
            print(f"embed: {runtime} batch {batch}", file=sys.stderr, flush=True)
            seconds = measure(runs, batch, rounds, clock)
            for key, value in seconds.items():
                stem = f"{named(key, f'speed.{runtime}')}.b{batch}"
                out[f"{stem}.fps"] = 1 / value
                peer = seconds.get(f"original.{key.rpartition('.')[2]}")
                if peer and not key.startswith("original."):
                    out[f"{stem}.ratio_to_original"] = peer / value
    return out


def figures(args: argparse.Namespace) -> dict[str, float | str | None]:
    out: dict[str, float | str | None] = {
        "clock": "process CPU, one core" if args.threads == 1 else "wall",
        "threads": float(args.threads),
    }
    for runtime in ("onnxruntime", "openvino"):
        for key, path in shipped(runtime).items():
            # Float files store float16 weights.
            name = named(key.replace("fp32", "fp16"), "size_mb")
            out[name if runtime == "onnxruntime" else f"{name}.{runtime}"] = size_mb(path)
    rounds = 5 if args.quick else args.rounds
    return out | speeds(args.shared, batches=args.batches, threads=args.threads, rounds=rounds)
