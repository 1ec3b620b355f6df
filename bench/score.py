"""The fused kernel against its ceilings and against everything else that can score rows.

Every method runs once per round in one process pinned to one core; a time is process CPU time, a
ratio the median of per-round ratios, above 1 meaning that edgeface is faster. The job is the best
class of each probe (`maxmax`), unless a key says otherwise. Peers get what suits them: contiguous
float32, weights as constants, one thread, no spinning. Three quarters of the probes are known at
cosine 0.5 to 0.75, the rest strangers; timing does not depend on it, the certificate's cost does.

    fraction_of_read_bandwidth   bytes of W / time, over a plain read of W in the same round
    fraction_of_ceiling          the greater of that and multiply-adds / time over the FMA peak
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from edgeface import score
from edgeface.submodels import Rule, SubmodelBank, unit

Method = Callable[[NDArray[np.float32]], Any]
ONNX_LIMIT = 1_900_000_000  # a protobuf holds 2 GB


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--classes", type=int, nargs="+", default=[10_000, 100_000, 360_000])
    parser.add_argument("--dims", type=int, nargs="+", default=[512])
    parser.add_argument("--probes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--core", type=int, default=0, help="the core to pin to")
    parser.add_argument("--only", nargs="+", default=PARTS, choices=PARTS)


PARTS = ["peers", "nearest", "original", "submodels", "kernels", "exactness", "memory"]


def figures(args: argparse.Namespace) -> dict[str, float | str | None]:
    os.sched_setaffinity(0, {args.core})
    threadpool_limits(1)
    sizes = [2000] if args.quick else args.classes
    args.rounds = 2 if args.quick else args.rounds
    out: dict[str, float | str | None] = {"score.kernel": score.kernel()}
    parts = {"peers": _peers, "nearest": _nearest, "original": _original,
             "submodels": _submodels, "kernels": _kernels, "exactness": _exactness}  # fmt: skip
    for d in args.dims:
        for n in sizes:
            weights = _unit_rows(n, d, seed=1)
            quantized = score.quantize(weights)
            for part, measure in parts.items():
                if part in args.only:
                    print(f"score: {part}, N = {n}, D = {d}", file=sys.stderr, flush=True)
                    out |= measure(args, weights, quantized)
            del weights, quantized
    if "memory" in args.only:
        out |= _memory(2000 if args.quick else 360_000)
    return out


def _peers(
    args: argparse.Namespace, weights: NDArray[np.float32], quantized: score.QuantizedRows
) -> dict[str, float | str | None]:
    """float32 and int8 against numpy, torch, ONNX Runtime and OpenVINO, and against ceilings."""
    n, d = weights.shape
    out: dict[str, float | str | None] = {}
    peers = {"numpy": _numpy(weights), "torch": _torch(weights)}
    if weights.nbytes < ONNX_LIMIT:
        peers |= {"onnxruntime": _onnxruntime(weights), "openvino": _openvino(weights),
                  "onnxruntime_int8": _onnxruntime_int8(weights)}  # fmt: skip
    ours = {"fp32": _native(weights), "int8": _native(quantized),
            "fp16": _native(weights.astype(np.float16))}  # fmt: skip
    float_peers = [p for p in peers if p != "onnxruntime_int8"]
    with _ceilings() as ceilings:
        for q in args.probes:
            x = _some_probes(weights, q, seed=q)
            seconds = _interleave({**ours, **peers}, x, args.rounds, ceilings, weights)
            best = np.min([seconds[p] for p in float_peers], axis=0)
            at = f"N{n}.D{d}.Q{q}.t1"
            for name in ours:
                key = f"score.{name}.{at}"
                out[f"{key}.ms"] = float(np.median(seconds[name])) * 1e3
                out[f"{key}.ratio_to_best_peer"] = _ratio(best, seconds[name])
                for peer in peers:
                    out[f"{key}.ratio_to_{peer}"] = _ratio(seconds[peer], seconds[name])
                size = {"fp32": 4, "fp16": 2, "int8": 1}[name]
                out |= _fractions(key, seconds, name, n * d * size, 2.0 * n * d * q)
            _, _, cost = score.topk_with_cost(x, quantized, 1, threads=1)
            out[f"score.int8.{at}.rescored_per_probe"] = cost.rescored / q
            out[f"score.int8.{at}.overflows_per_probe"] = cost.overflows / q
    return out


def _fractions(
    key: str, seconds: dict[str, NDArray], name: str, size: float, operations: float
) -> dict[str, float | str | None]:
    if "read" not in seconds:
        return {f"{key}.fraction_of_read_bandwidth": None, f"{key}.fraction_of_ceiling": None}
    read = size / seconds[name] / seconds["read"]
    fma = operations / seconds[name] / seconds["fma"]
    out: dict[str, float | str | None] = {
        f"{key}.read_bandwidth_gb_s": float(np.median(seconds["read"])) / 1e9,
        f"{key}.fma_peak_gflop_s": float(np.median(seconds["fma"])) / 1e9,
        f"{key}.fraction_of_read_bandwidth": float(np.median(read)),
        f"{key}.fraction_of_fma_peak": float(np.median(fma)),
    }
    if name == "fp32":
        out[f"{key}.fraction_of_ceiling"] = float(np.median(np.maximum(read, fma)))
    return out


def _nearest(
    args: argparse.Namespace, weights: NDArray[np.float32], quantized: score.QuantizedRows
) -> dict[str, float | str | None]:
    """The nearest-centre job against faiss (its best setting per Q) and usearch, both exact."""
    n, d = weights.shape
    out: dict[str, float | str | None] = {}
    peers: dict[str, Method] = {**_faiss(weights), **_usearch(weights)}
    ours = {"fp32": _native(weights), "int8": _native(quantized)}
    for q in args.probes:
        key = f"score.nearest.N{n}.D{d}.Q{q}.t1"
        if not peers:
            out[f"{key}.int8_ratio_to_faiss"] = out[f"{key}.int8_ratio_to_usearch"] = None
            continue
        x = _some_probes(weights, q, seed=q)
        seconds = _interleave({**ours, **peers}, x, max(3, args.rounds // 2))
        for family in ("faiss", "usearch"):
            runs = [v for k, v in seconds.items() if k.startswith(family)]
            best = np.min(runs, axis=0) if runs else None
            for name in ours:
                value = None if best is None else _ratio(best, seconds[name])
                out[f"{key}.{name}_ratio_to_{family}"] = value
    return out


def _original(
    args: argparse.Namespace, weights: NDArray[np.float32], quantized: score.QuantizedRows
) -> dict[str, float | str | None]:
    """The whole MixMaxSim job, K = 10, against the original's, ported to torch as written: every
    call normalises W and C again and keeps all scores."""
    import torch

    n, d = weights.shape
    centres = _unit_rows(n, d, seed=2)
    codes = score.quantize(centres)
    w, c = torch.from_numpy(weights), torch.from_numpy(centres)
    cuts = [n * k // 10 for k in range(11)]
    normalise = torch.nn.functional.normalize

    def ported(x: NDArray[np.float32]) -> Any:
        p = torch.from_numpy(x)
        heads = [normalise(p) @ normalise(w[a:b]).T for a, b in itertools.pairwise(cuts)]
        best = torch.stack([h.max(dim=1).values for h in heads])
        inside = torch.stack([h.argmax(dim=1) for h in heads])
        k = best.argmax(dim=0)
        each = torch.arange(len(x))
        A = inside[k, each] + torch.tensor(cuts)[k]
        sims = normalise(p) @ normalise(c).T
        B = sims.argmax(dim=1)
        a, b, b_prime = best[k, each], sims[each, B], sims[each, A]
        a_prime = torch.cat(heads, dim=1)[each, B]
        use_sim = (a <= 0.8) & (0.7 * b * (1 + a_prime) / 2 > a * (1 + b_prime) / 2)
        return torch.where(use_sim, B, A)

    methods: dict[str, Method] = {
        "original": ported,
        "fp32": lambda x: score.mixmaxsim(x, weights, centres, threads=1),
        "int8": lambda x: score.mixmaxsim(x, quantized, codes, threads=1),
    }
    out: dict[str, float | str | None] = {}
    for q in args.probes:
        x = _some_probes(weights, q, seed=q)
        seconds = _interleave(methods, x, max(3, args.rounds // 2))
        for name in ("fp32", "int8"):
            out[f"score.job.N{n}.D{d}.Q{q}.t1.{name}_ratio_to_original"] = _ratio(
                seconds["original"], seconds[name]
            )
            out[f"score.job.N{n}.D{d}.Q{q}.t1.{name}_ms"] = float(np.median(seconds[name])) * 1e3
    return out


def _submodels(
    args: argparse.Namespace, weights: NDArray[np.float32], _: score.QuantizedRows
) -> dict[str, float | str | None]:
    """Cost of K: the votes alone do not see it; with every submodel's maximum, argmax and
    log-sum-exp, time over that of K = 1."""
    n, d = weights.shape
    out: dict[str, float | str | None] = {}
    counts = [k for k in (1, 10, 100, 1000) if k <= n]
    for q in args.probes:
        x = _some_probes(weights, q, seed=q)

        def job(k: int) -> Method:
            cuts = np.arange(k + 1) * n // k
            return lambda p: score.mixmaxsim(p, weights, weights, offsets=cuts, threads=1)

        methods: dict[str, Method] = {f"K{k}": job(k) for k in counts}
        methods["votes"] = lambda p: score.mixmaxsim(p, weights, weights, threads=1)
        seconds = _interleave(methods, x, max(3, args.rounds // 2))
        for k in counts:
            key = f"score.submodels.N{n}.D{d}.Q{q}.t1.K{k}"
            out[f"{key}.cost_to_K1"] = _ratio(seconds[f"K{k}"], seconds["K1"])
            out[f"{key}.cost_to_votes_alone"] = _ratio(seconds[f"K{k}"], seconds["votes"])
    return out


def _kernels(
    args: argparse.Namespace, weights: NDArray[np.float32], quantized: score.QuantizedRows
) -> dict[str, float | str | None]:
    """Every kernel this machine runs, and numba, over the one that is chosen."""
    n, d = weights.shape
    out: dict[str, float | str | None] = {}
    names = score._native.kernels() if score._native is not None else []
    names = [k for k in [*names, "numba"] if k != "scalar"]
    for q in args.probes:
        x = _some_probes(weights, q, seed=q)
        for storage, rows in (("fp32", weights), ("int8", quantized)):
            methods = {k: _forced(k, rows) for k in names if storage == "fp32" or k != "numba"}
            seconds = _interleave(methods, x, max(3, args.rounds // 2))
            for k in methods:
                out[f"score.{storage}.N{n}.D{d}.Q{q}.t1.{k}_time_to_chosen"] = _ratio(
                    seconds[k], seconds[names[0]]
                )
    return out


def _exactness(
    args: argparse.Namespace, weights: NDArray[np.float32], quantized: score.QuantizedRows
) -> dict[str, float | str | None]:
    """int8 decisions that are not float64's, and what proving them cost."""
    n, d = weights.shape
    count = 64 if args.quick else 256
    x = _some_probes(weights, count, seed=9)
    found, _, cost = score.topk_with_cost(x, quantized, 1, threads=1)
    best, who = np.full(count, -np.inf), np.zeros(count, dtype=np.int64)
    for s in range(0, n, 8192):
        exact = x.astype(np.float64) @ weights[s : s + 8192].astype(np.float64).T
        top = exact.argmax(axis=1)
        value = exact[np.arange(count), top]
        who = np.where(value > best, s + top, who)
        best = np.maximum(best, value)
    key = f"score.int8.N{n}.D{d}"
    differing = float((found[:, 0] != who).sum())
    return {
        f"{key}.probes_checked": float(count), f"{key}.decisions_differing": differing,
        "score.int8.decisions_differing": differing,
        f"{key}.rescored_per_probe": cost.rescored / count,
        f"{key}.fallback_rate": cost.overflows / count,
    }  # fmt: skip


def _memory(n: int) -> dict[str, float | str | None]:
    """Resident bytes of a saved bank's mapping after identifying, in a fresh process."""
    code = (
        "import sys, numpy as np; from edgeface.submodels import SubmodelBank, unit\n"
        "bank = SubmodelBank.load(sys.argv[1]); rng = np.random.default_rng(0)\n"
        "for _ in range(4): bank.identify(unit(rng.standard_normal((8, 512))))\n"
        "total, here = 0, False\n"
        "for line in open('/proc/self/smaps'):\n"
        "    if '-' in line.split()[0]: here = line.rstrip().endswith('.efb')\n"
        "    elif here and line.startswith('Rss:'): total += int(line.split()[1])\n"
        "print(total * 1024)\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank.efb"
        rows = _unit_rows(n, 512, seed=1)
        bank = SubmodelBank.pack(
            rows, rows[::-1], np.arange(n) % 10, names=["x"] * n, rule=Rule("mixmaxsim"),
            embedder="bench",
        )  # fmt: skip
        bank.save(path)
        size = path.stat().st_size
        begin = time.perf_counter()
        SubmodelBank.load(path)
        load = time.perf_counter() - begin
        done = subprocess.run(
            [sys.executable, "-c", code, path], capture_output=True, text=True, check=True,
            cwd=Path(__file__).parents[1],
        )  # fmt: skip
    key = f"score.bank.N{n}"
    return {
        f"{key}.resident_mb": float(done.stdout) / 1e6, f"{key}.file_mb": size / 1e6,
        f"{key}.load_ms": load * 1e3,
    }  # fmt: skip


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


def _interleave(
    methods: dict[str, Method],
    x: NDArray[np.float32],
    rounds: int,
    ceilings: Any = None,
    rows: NDArray[np.float32] | None = None,
) -> dict[str, NDArray]:
    """CPU seconds (rounds,) of every method; `read` and `fma` are bytes and operations a second.

    A call is repeated within a round until it has taken 2 ms, so that the clock's grain and a
    cold branch predictor do not count.
    """
    repeats, seconds = {}, {name: [] for name in methods}  # type: dict[str, int], dict[str, list]
    for name, method in methods.items():
        method(x)
        repeats[name] = max(1, int(np.ceil(2e-3 / max(_cpu(method, x, 1), 1e-6))))
    read, fma = [], []
    for _ in range(rounds):
        if ceilings is not None and rows is not None:
            read.append(rows.nbytes / _cpu(lambda _: ceilings.read(rows), x, 1))
            fma.append(ceilings.operations / _cpu(lambda _: ceilings.fma(), x, 1))
        for name, method in methods.items():
            seconds[name].append(_cpu(method, x, repeats[name]))
    found = {name: np.asarray(v) for name, v in seconds.items()}
    return found | ({"read": np.asarray(read), "fma": np.asarray(fma)} if read else {})


def _cpu(method: Method, x: NDArray[np.float32], repeats: int) -> float:
    begin = time.process_time_ns()
    for _ in range(repeats):
        method(x)
    return (time.process_time_ns() - begin) / 1e9 / repeats


def _ratio(theirs: NDArray, ours: NDArray) -> float:
    return float(np.median(theirs / ours))


class _Ceilings:
    """Plain reading and register-only multiply-adds, from bench/ceilings.c."""

    def __init__(self, library: Path) -> None:
        self._c = ctypes.CDLL(str(library))
        self._c.read_once.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._c.read_once.restype = ctypes.c_float
        self._c.multiply_add.argtypes = [ctypes.c_size_t, ctypes.POINTER(ctypes.c_float)]
        self._c.multiply_add.restype = ctypes.c_double
        self._rounds = 400_000
        self.operations = self.fma()

    def read(self, rows: NDArray[np.float32]) -> float:
        return float(self._c.read_once(rows.ctypes.data, rows.size))

    def fma(self) -> float:
        return float(self._c.multiply_add(self._rounds, ctypes.byref(ctypes.c_float())))


@contextlib.contextmanager
def _ceilings() -> Iterator[_Ceilings | None]:
    """Builds the ceilings for this processor's widest vectors; None where that is impossible."""
    compiler = shutil.which("cc")
    names = score._native.kernels() if score._native is not None else []
    wide = any(k.startswith("avx512") for k in names)
    if compiler is None or "avx2" not in names:
        print("score: no compiler or no AVX2, so no ceilings", file=sys.stderr)
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "ceilings.so"
        flags = ["-mavx512f"] if wide else ["-mavx2", "-mfma"]
        source = Path(__file__).with_name("ceilings.c")
        subprocess.run(
            [compiler, "-O3", *flags, "-shared", "-fPIC", source, "-o", library], check=True
        )
        yield _Ceilings(library)


def _native(rows: score.Rows | score.QuantizedRows) -> Method:
    return lambda x: score.topk(x, rows, 1, threads=1)


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


def _numpy(weights: NDArray[np.float32]) -> Method:
    def run(x: NDArray[np.float32]) -> None:
        scores = x @ weights.T
        best = scores.argmax(axis=1)
        scores[np.arange(len(x)), best]

    return run


def _torch(weights: NDArray[np.float32]) -> Method:
    import torch

    torch.set_num_threads(1)
    w = torch.from_numpy(weights).T

    def run(x: NDArray[np.float32]) -> None:
        with torch.inference_mode():
            (torch.from_numpy(x) @ w).max(dim=1)

    return run


def _graph(weights: NDArray[np.float32], quantized: bool) -> bytes:
    """probes to best class and its cosine: MatMul, or dynamically quantized MatMulInteger."""
    from onnx import TensorProto, helper, numpy_helper

    constants = {"W": np.ascontiguousarray(weights.T), "axis": np.array([1])}
    nodes = [helper.make_node("MatMul", ["x", "W"], ["s"])]
    if quantized:
        scale = np.abs(weights).max(axis=1) / np.float32(127)
        codes = np.rint(weights / scale[:, None]).astype(np.int8)
        constants |= {"W": np.ascontiguousarray(codes.T), "scale": scale}
        nodes = [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
            helper.make_node("MatMulInteger", ["xq", "W", "xz"], ["i"]),
            helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["xs", "scale"], ["both"]),
            helper.make_node("Mul", ["f", "both"], ["s"]),
        ]
    nodes += [
        helper.make_node("ArgMax", ["s"], ["class"], axis=1, keepdims=0),
        helper.make_node("ReduceMax", ["s", "axis"], ["cosine"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes, "head",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["q", weights.shape[1]])],
        [helper.make_tensor_value_info("class", TensorProto.INT64, ["q"]),
         helper.make_tensor_value_info("cosine", TensorProto.FLOAT, ["q"])],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def _onnx_session(model: bytes) -> Method:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})


def _onnxruntime(weights: NDArray[np.float32]) -> Method:
    return _onnx_session(_graph(weights, quantized=False))


def _onnxruntime_int8(weights: NDArray[np.float32]) -> Method:
    return _onnx_session(_graph(weights, quantized=True))


def _openvino(weights: NDArray[np.float32]) -> Method:
    import openvino

    core = openvino.Core()
    model = core.read_model(_graph(weights, quantized=False))
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda x: request.infer({"x": x}, share_inputs=True)


def _faiss(weights: NDArray[np.float32]) -> dict[str, Method]:
    try:
        import faiss
    except ImportError:
        return {}
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(weights.shape[1])
    index.add(weights)

    def with_threshold(threshold: int) -> Method:
        def run(x: NDArray[np.float32]) -> None:
            faiss.cvar.distance_compute_blas_threshold = threshold
            index.search(x, 1)

        return run

    return {"faiss_loop": with_threshold(1 << 30), "faiss_blas": with_threshold(1)}


def _usearch(weights: NDArray[np.float32]) -> dict[str, Method]:
    try:
        from usearch.index import MetricKind, search
    except ImportError:
        return {}
    return {"usearch": lambda x: search(weights, x, 1, MetricKind.IP, exact=True, threads=1)}
