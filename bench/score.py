"""The fused kernel against its ceilings and against everything else that can score rows.

Every method runs once per round in one process; a time is the median, a ratio the median of
per-round ratios, above 1 meaning that edgeface is faster; `t1` keys are CPU time on one core, `t2`
keys wall time on two. The job is the best class of each probe (`maxmax`), unless a key says
otherwise. Three quarters of the probes are known at cosine 0.5 to 0.75, the rest strangers; timing
does not depend on it, the certificate's cost does.

    fraction_of_read_bandwidth   bytes of W / time, over a plain read of W in the same round
    fraction_of_ceiling          the greater of that and multiply-adds / time over the FMA peak
    fraction_of_combined_ceiling the time of a bare loop that reads W and multiplies as often, over
                                 the time: on some machines reading and multiplying add up

All parts and sizes together take half an hour. Each can run for itself (--only, --classes, --dims,
--threads), and --update FILE collects the figures of many runs in one JSON document with the tables
of it beside, FILE.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import collect, score_memory, score_peers, score_report
from bench.timing import Method, Timer, ratio
from edgeface import score
from edgeface.submodels import unit

Figures = dict[str, float | str | None]
Times = dict[str, NDArray[np.float64]]  # by method, seconds of each round
SIZES = [10_000, 100_000, 360_000, 1_000_000]
MIDDLE = 100_000  # where the cost of K and the kernels are compared
HUGE = 1_000_000  # from here on three rounds are enough, the calls are so long


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--classes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--dims", type=int, nargs="+", default=[512, 128])
    parser.add_argument("--probes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of part peers")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--core", type=int, default=0, help="the core to pin to")
    parser.add_argument("--only", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--update", type=Path, metavar="FILE", help="collect the figures there")


def figures(args: argparse.Namespace) -> Figures:
    sizes = [2000] if args.quick else args.classes
    args.rounds = 2 if args.quick else args.rounds
    out: Figures = {"score.kernel": score.kernel()}
    for d in args.dims:
        for n in sizes:
            parts = [p for p in args.only if _runs(p, n, sizes, args.quick)]
            if not parts:
                continue
            weights = _unit_rows(n, d, seed=1)
            quantized = score.quantize(weights)
            for part in parts:
                print(f"score: {part}, N = {n}, D = {d}", file=sys.stderr, flush=True)
                out |= _kept(PER_SIZE[part](args, weights, quantized), args)
            del weights, quantized
    if "memory" in args.only:
        out |= _kept(score_memory.figures(args.quick), args)
    return out | score_report.totals(out)


def _kept(found: Figures, args: argparse.Namespace) -> Figures:
    """A part's figures go to the document at once: a run that is cut short loses only the rest."""
    if args.update:
        collect.update(
            args.update, found | {"score.kernel": score.kernel()}, bench="score",
            arguments=" ".join(sys.argv[1:]), totals=score_report.totals,
            markdown=score_report.markdown,
        )  # fmt: skip
    return found


def _runs(part: str, n: int, sizes: list[int], quick: bool) -> bool:
    if part not in PER_SIZE:
        return False
    if part == "linear":
        return n == max(sizes)
    return part not in {"submodels", "kernels"} or n == MIDDLE or quick


def _rounds(args: argparse.Namespace, n: int, least: int = 3) -> int:
    return min(least, args.rounds) if n >= HUGE else int(args.rounds)


def _peers(
    args: argparse.Namespace, weights: NDArray[np.float32], quantized: score.QuantizedRows
) -> Figures:
    """float32 and int8 against numpy, torch, ONNX Runtime and OpenVINO, and against ceilings."""
    n, d = weights.shape
    out: Figures = {}
    stored: dict[str, score.Rows | score.QuantizedRows] = {
        "fp32": weights, "int8": quantized, "fp16": weights.astype(np.float16),
    }  # fmt: skip
    for threads in args.threads:
        with Timer(threads, args.core) as timer:
            peers = score_peers.float_and_int8(weights, threads)
            ours = {name: _top1(rows, threads) for name, rows in stored.items()}
            for q in args.probes:
                x = _some_probes(weights, q, seed=q)
                seconds = timer.interleave({**ours, **peers}, x, _rounds(args, n), weights)
                at = f"N{n}.D{d}.Q{q}.t{threads}"
                for name in ours:
                    out |= _against(f"score.{name}.{at}", seconds, name, list(peers))
                    size = n * d * {"fp32": 4, "fp16": 2, "int8": 1}[name]
                    out |= _fractions(f"score.{name}.{at}", seconds, name, size, 2.0 * n * d * q)
                _, _, cost = score.topk_with_cost(x, quantized, 1, threads=threads)
                out[f"score.int8.{at}.rescored_per_probe"] = cost.rescored / q
    return out


def _against(key: str, seconds: Times, name: str, peers: list[str]) -> Figures:
    """The best peer is the float one with the least median time."""
    floats = [p for p in peers if p != score_peers.INT8]
    best = min(floats, key=lambda p: float(np.median(seconds[p])))
    out: Figures = {
        f"{key}.ms": float(np.median(seconds[name])) * 1e3,
        f"{key}.best_peer": best,
        f"{key}.ratio_to_best_peer": ratio(seconds[best], seconds[name]),
    }
    return out | {f"{key}.ratio_to_{peer}": ratio(seconds[peer], seconds[name]) for peer in peers}


def _fractions(key: str, seconds: Times, name: str, size: float, operations: float) -> Figures:
    if "read" not in seconds:
        return {
            f"{key}.fraction_of_read_bandwidth": None,
            f"{key}.fraction_of_ceiling": None,
            f"{key}.fraction_of_combined_ceiling": None,
        }
    read = size / seconds[name] / seconds["read"]
    fma = operations / seconds[name] / seconds["fma"]
    out: Figures = {
        f"{key}.read_bandwidth_gb_s": float(np.median(seconds["read"])) / 1e9,
        f"{key}.fma_peak_gflop_s": float(np.median(seconds["fma"])) / 1e9,
        f"{key}.fraction_of_read_bandwidth": float(np.median(read)),
        f"{key}.fraction_of_fma_peak": float(np.median(fma)),
    }
    if name == "fp32":
        out[f"{key}.fraction_of_ceiling"] = float(np.median(np.maximum(read, fma)))
        out[f"{key}.fraction_of_combined_ceiling"] = ratio(seconds["both"], seconds[name])
    return out


def _nearest(
    args: argparse.Namespace, weights: NDArray[np.float32], quantized: score.QuantizedRows
) -> Figures:
    """The nearest-centre job against faiss (its best setting per Q) and usearch, both exact."""
    n, d = weights.shape
    out: Figures = {}
    ours = {"fp32": _top1(weights), "int8": _top1(quantized)}
    with Timer(1, args.core) as timer:
        peers = score_peers.nearest(weights, 1)
        for q in args.probes:
            x = _some_probes(weights, q, seed=q)
            seconds = timer.interleave({**ours, **peers}, x, _rounds(args, n, 2))
            for family in ("faiss", "usearch"):
                runs = [v for k, v in seconds.items() if k.startswith(family)]
                best = min(runs, key=lambda v: float(np.median(v)), default=None)
                for name in ours:
                    key = f"score.nearest.N{n}.D{d}.Q{q}.t1.{name}_ratio_to_{family}"
                    out[key] = None if best is None else ratio(best, seconds[name])
    return out


def _original(
    args: argparse.Namespace, weights: NDArray[np.float32], quantized: score.QuantizedRows
) -> Figures:
    """The whole MixMaxSim job, K = 10, against the original's."""
    n, d = weights.shape
    centres = _unit_rows(n, d, seed=2)
    codes = score.quantize(centres)
    methods: dict[str, Method] = {
        "original": score_peers.original_job(weights, centres),
        "fp32": lambda x: score.mixmaxsim(x, weights, centres, threads=1),
        "int8": lambda x: score.mixmaxsim(x, quantized, codes, threads=1),
    }
    out: Figures = {}
    with Timer(1, args.core) as timer:
        for q in args.probes:
            x = _some_probes(weights, q, seed=q)
            seconds = timer.interleave(methods, x, _rounds(args, n, 2))
            key = f"score.job.N{n}.D{d}.Q{q}.t1"
            for name in ("fp32", "int8"):
                out[f"{key}.{name}_ratio_to_original"] = ratio(seconds["original"], seconds[name])
                out[f"{key}.{name}_ms"] = float(np.median(seconds[name])) * 1e3
    return out


def _submodels(
    args: argparse.Namespace, weights: NDArray[np.float32], _: score.QuantizedRows
) -> Figures:
    """Cost of K: the votes alone do not see it; with every submodel's maximum, argmax and
    log-sum-exp, time over that of K = 1."""
    n, d = weights.shape
    out: Figures = {}
    counts = [k for k in (1, 10, 100, 1000) if k <= n]

    def job(k: int) -> Method:
        cuts = np.arange(k + 1) * n // k
        return lambda p: score.mixmaxsim(p, weights, weights, offsets=cuts, threads=1)

    methods: dict[str, Method] = {f"K{k}": job(k) for k in counts}
    methods["votes"] = lambda p: score.mixmaxsim(p, weights, weights, threads=1)
    with Timer(1, args.core) as timer:
        for q in args.probes:
            x = _some_probes(weights, q, seed=q)
            seconds = timer.interleave(methods, x, args.rounds)
            for k in counts:
                key = f"score.submodels.N{n}.D{d}.Q{q}.t1.K{k}"
                out[f"{key}.cost_to_K1"] = ratio(seconds[f"K{k}"], seconds["K1"])
                out[f"{key}.cost_to_votes_alone"] = ratio(seconds[f"K{k}"], seconds["votes"])
    return out


def _kernels(
    args: argparse.Namespace, weights: NDArray[np.float32], quantized: score.QuantizedRows
) -> Figures:
    """Every kernel this machine runs, and numba, over the one that is chosen."""
    n, d = weights.shape
    out: Figures = {}
    names = score.kernels()
    names = [k for k in [*names, "numba"] if k != "scalar"]
    with Timer(1, args.core) as timer:
        for q in args.probes:
            x = _some_probes(weights, q, seed=q)
            for storage, rows in (("fp32", weights), ("int8", quantized)):
                methods = {k: _forced(k, rows) for k in names if storage == "fp32" or k != "numba"}
                seconds = timer.interleave(methods, x, args.rounds)
                for k in methods:
                    out[f"score.{storage}.N{n}.D{d}.Q{q}.t1.{k}_time_to_chosen"] = ratio(
                        seconds[k], seconds[names[0]]
                    )
    return out


def _linear(
    args: argparse.Namespace, weights: NDArray[np.float32], quantized: score.QuantizedRows
) -> Figures:
    """Time per row of every smaller N over that of the largest; below it 1 is linear, and caches
    make small sets cheaper."""
    n, d = weights.shape
    out: Figures = {}
    sizes = [m for m in (*SIZES, n) if m <= n]
    for name, rows in (("fp32", weights), ("int8", quantized)):
        methods = {str(m): _top1(_first(rows, m)) for m in sizes}
        with Timer(1, args.core) as timer:
            for q in args.probes:
                x = _some_probes(weights, q, seed=q)
                seconds = timer.interleave(methods, x, _rounds(args, n))
                for m in sizes[:-1]:
                    key = f"score.linear.{name}.N{m}.D{d}.Q{q}.t1.cost_per_row_to_N{n}"
                    out[key] = ratio(seconds[str(m)] / m, seconds[str(n)] / n)
    return out


def _exactness(
    args: argparse.Namespace, weights: NDArray[np.float32], quantized: score.QuantizedRows
) -> Figures:
    """int8 decisions that are not float64's, what proving them cost, and how many of them ONNX
    Runtime's dynamic INT8 gets wrong."""
    n, d = weights.shape
    count = 64 if args.quick else 256
    x = _some_probes(weights, count, seed=9)
    found, _, cost = score.topk_with_cost(x, quantized, 1, threads=2)
    best, who = np.full(count, -np.inf), np.zeros(count, dtype=np.int64)
    for s in range(0, n, 8192):
        exact = x.astype(np.float64) @ weights[s : s + 8192].astype(np.float64).T
        top = exact.argmax(axis=1)
        value = exact[np.arange(count), top]
        who = np.where(value > best, s + top, who)
        best = np.maximum(best, value)
    dynamic = score_peers.onnxruntime_int8(weights, 2)
    theirs = np.concatenate([dynamic(x[s : s + 32])[0] for s in range(0, count, 32)])
    key = f"score.int8.N{n}.D{d}"
    return {
        f"{key}.probes_checked": float(count),
        f"{key}.decisions_differing": float((found[:, 0] != who).sum()),
        f"{key}.rescored_per_probe": cost.rescored / count,
        f"{key}.fallback_rate": cost.overflows / count,
        f"score.onnxruntime_int8.N{n}.D{d}.decisions_differing": float((theirs != who).sum()),
    }


PER_SIZE: dict[str, Callable[..., Figures]] = {
    "peers": _peers, "nearest": _nearest, "original": _original, "submodels": _submodels,
    "kernels": _kernels, "linear": _linear, "exactness": _exactness,
}  # fmt: skip
PARTS = [*PER_SIZE, "memory"]


def _unit_rows(n: int, d: int, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    rows = np.empty((n, d), dtype=np.float32)
    for s in range(0, n, 65536):
        block = rows[s : s + 65536]
        rng.standard_normal(block.shape, dtype=np.float32, out=block)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return rows


def _some_probes(weights: NDArray[np.float32], q: int, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    noise = unit(rng.standard_normal((q, weights.shape[1])))
    cosine = rng.uniform(0.5, 0.75, (q, 1))
    known = (np.arange(q) % 4 != 3)[:, None]
    near = weights[rng.integers(0, len(weights), q)]
    return unit(np.where(known, cosine * near + np.sqrt(1 - cosine**2) * noise, noise))


def _first(rows: score.Rows | score.QuantizedRows, n: int) -> score.Rows | score.QuantizedRows:
    if not isinstance(rows, score.QuantizedRows):
        return rows[:n]
    return score.QuantizedRows(
        rows.codes[:n], rows.scale[:n], rows.error[:n], rows.exact[:n], rows.norm, rows.error_max
    )


def _top1(rows: score.Rows | score.QuantizedRows, threads: int = 1) -> Method:
    return lambda x: score.topk(x, rows, 1, threads=threads)


def _forced(name: str, rows: score.Rows | score.QuantizedRows) -> Method:
    def run(x: NDArray[np.float32]) -> None:
        before = os.environ.get("EDGEFACE_KERNEL")
        os.environ["EDGEFACE_KERNEL"] = name
        try:
            score.topk(x, rows, 1, threads=1)
        finally:
            del os.environ["EDGEFACE_KERNEL"]
            if before is not None:
                os.environ["EDGEFACE_KERNEL"] = before

    return run
