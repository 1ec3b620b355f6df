"""Size and speed of the shipped embedders beside the original project's, in one interleaved run.

Every configuration runs in turn, many short rounds; the figure is the median over the rounds of
process CPU seconds (one thread) or wall seconds (`--threads` > 1) per picture, so that a loaded
machine slows every configuration alike. `ratio_to_original` compares equal runtime and precision:
INT8 with the original's INT8, FP32 with its FP32.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

WEIGHTS = Path(__file__).parents[1] / "edgeface" / "weights"
Run = Callable[[], object]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 32])


def by_openvino(path: Path, batch: int, threads: int) -> Run:
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
    x = np.full((batch, 3, 112, 112), 100.0, np.float32)
    return lambda: compiled(x)


def by_onnxruntime(path: Path, batch: int, threads: int) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    first = session.get_inputs()[0]
    fixed = first.shape[0] if isinstance(first.shape[0], int) else batch
    x = np.full((fixed, 3, 112, 112), 100.0, np.float32)
    # The original's file is locked to batch 1: a batch is that many calls.
    return lambda: [session.run(None, {first.name: x}) for _ in range(batch // fixed)]


def size_mb(path: Path) -> float:
    """Megabytes (10⁶) of the model with its weights."""
    both = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    return sum(p.stat().st_size for p in both) / 1e6


def shipped() -> dict[str, Path]:
    """`fp32` and `int8` of the main embedder, `edge.fp32` and `edge.int8`, as far as shipped."""
    found = {}
    for key, stem in (
        ("fp32", "mobilefacenet"),
        ("int8", "mobilefacenet-int8"),
        ("edge.fp32", "mobilefacenet-edge"),
        ("edge.int8", "mobilefacenet-edge-int8"),
    ):
        card = WEIGHTS / f"{stem}.json"
        if card.exists():
            found[key] = card.with_name(json.loads(card.read_text())["file"])
    return found


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


def figures(args: argparse.Namespace) -> dict[str, float | str | None]:
    rounds = 5 if args.quick else args.rounds
    clock = time.process_time if args.threads == 1 else time.perf_counter
    ours = shipped()
    peers = args.shared / "models" / "peers" / "original_mobilefacenet"
    original = {
        "fp32": peers / "optim.onnx",
        "int8": peers / "openvino_ptq" / "quantized_model.xml",
    }
    out: dict[str, float | str | None] = {
        "clock": "process CPU" if args.threads == 1 else "wall",
        "threads": float(args.threads),
    }
    for key, path in ours.items():
        prefix, precision = key.rpartition(".")[::2]
        name = "fp16" if precision == "fp32" else precision  # float files store float16 weights
        out[f"{prefix + '.' if prefix else ''}size_mb.{name}"] = size_mb(path)
    for batch in args.batches:
        for runtime, make in (("openvino", by_openvino), ("onnxruntime", by_onnxruntime)):
            runs = {
                f"original.{k}": make(p, batch, args.threads)
                for k, p in original.items()
                if runtime == "openvino" or p.suffix == ".onnx"
            }
            runs |= {k: make(p, batch, args.threads) for k, p in ours.items()}
            print(f"embed: {runtime} batch {batch}", file=sys.stderr, flush=True)
            seconds = measure(runs, batch, rounds, clock)
            for key, value in seconds.items():
                if key.startswith("original."):
                    out[f"original.speed.{runtime}.{key[9:]}.b{batch}.fps"] = 1 / value
                    continue
                prefix, precision = key.rpartition(".")[::2]
                stem = f"{prefix + '.' if prefix else ''}speed.{runtime}.{precision}.b{batch}"
                out[f"{stem}.fps"] = 1 / value
                peer = seconds.get(f"original.{precision}")
                out[f"{stem}.ratio_to_original"] = peer / value if peer else None
    return out
