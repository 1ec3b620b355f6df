"""What else can score rows: every peer as a function of probes, given what suits it best.

Contiguous float32, weights as constants, the given number of threads, no spinning. A peer that is
not installed, or cannot hold that many rows, is left out.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.timing import Method

GRAPH_LIMIT = 1_900_000_000  # a protobuf holds 2 GB
INT8 = "onnxruntime_int8"


def float_and_int8(weights: NDArray[np.float32], threads: int) -> dict[str, Method]:
    """Best row and its cosine: numpy, torch, ONNX Runtime, OpenVINO, and dynamic INT8."""
    peers = {
        "numpy": numpy(weights),
        "torch": torch(weights),
        "onnxruntime": onnxruntime(weights, threads),
        "openvino": openvino(weights, threads),
    }
    if weights.nbytes < 4 * GRAPH_LIMIT:
        peers[INT8] = onnxruntime_int8(weights, threads)
    return peers


def numpy(weights: NDArray[np.float32]) -> Method:
    def run(x: NDArray[np.float32]) -> None:
        scores = x @ weights.T
        best = scores.argmax(axis=1)
        scores[np.arange(len(x)), best]

    return run


def torch(weights: NDArray[np.float32]) -> Method:
    import torch as library

    w = library.from_numpy(weights).T

    def run(x: NDArray[np.float32]) -> None:
        with library.inference_mode():
            (library.from_numpy(x) @ w).max(dim=1)

    return run


def _graph(weights: NDArray[np.float32], quantized: bool) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """probes to best class and its cosine: MatMul, or dynamically quantized MatMulInteger. W comes
    beside the graph, as an external initializer, so that it may be larger than 2 GB."""
    from onnx import StringStringEntryProto, TensorProto, helper, numpy_helper

    constants: dict[str, NDArray[Any]] = {"axis": np.array([1])}
    beside: dict[str, NDArray[Any]] = {"W": np.ascontiguousarray(weights.T)}
    nodes = [helper.make_node("MatMul", ["x", "W"], ["s"])]
    if quantized:
        scale = np.abs(weights).max(axis=1) / np.float32(127)
        codes = np.empty(weights.shape[::-1], dtype=np.int8)
        for s in range(0, len(weights), 65536):
            block = weights[s : s + 65536] / scale[s : s + 65536, None]
            codes[:, s : s + 65536] = np.rint(block).astype(np.int8).T
        beside = {"W": codes}
        constants["scale"] = scale
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
    outside = TensorProto(
        name="W", dims=beside["W"].shape, data_location=TensorProto.EXTERNAL,
        data_type=TensorProto.INT8 if quantized else TensorProto.FLOAT,
        external_data=[StringStringEntryProto(key="location", value="W")],
    )  # fmt: skip
    graph = helper.make_graph(
        nodes, "head",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["q", weights.shape[1]])],
        [helper.make_tensor_value_info("class", TensorProto.INT64, ["q"]),
         helper.make_tensor_value_info("cosine", TensorProto.FLOAT, ["q"])],
        [outside, *(numpy_helper.from_array(v, k) for k, v in constants.items())],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return model.SerializeToString(), beside


def _onnx_session(graph: tuple[bytes, dict[str, NDArray[Any]]], threads: int) -> Any:
    import onnxruntime as library

    model, beside = graph
    options = library.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    values = {k: library.OrtValue.ortvalue_from_numpy(v) for k, v in beside.items()}
    options.add_external_initializers(list(values), list(values.values()))
    return library.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnxruntime(weights: NDArray[np.float32], threads: int) -> Method:
    session = _onnx_session(_graph(weights, quantized=False), threads)
    return lambda x: session.run(None, {"x": x})


def onnxruntime_int8(weights: NDArray[np.float32], threads: int) -> Method:
    session = _onnx_session(_graph(weights, quantized=True), threads)
    return lambda x: session.run(None, {"x": x})


def openvino(weights: NDArray[np.float32], threads: int) -> Method:
    import openvino as library
    from openvino import opset13 as ops

    x = ops.parameter([-1, weights.shape[1]], np.float32, name="x")
    w = library.op.Constant(weights, shared_memory=True)
    scores = ops.matmul(x, w, transpose_a=False, transpose_b=True)
    best = ops.topk(scores, np.int64(1), 1, "max", "none", index_element_type="i64")
    model = library.Model([best.output(0), best.output(1)], [x], "head")
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1,
                "INFERENCE_PRECISION_HINT": "f32"}  # fmt: skip
    compiled = library.Core().compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    return lambda probes: request.infer([probes], share_inputs=True)


def nearest(weights: NDArray[np.float32], threads: int) -> dict[str, Method]:
    """faiss by both of its ways to search exactly, and usearch's exact search."""
    return {**_faiss(weights, threads), **_usearch(weights, threads)}


def _faiss(weights: NDArray[np.float32], threads: int) -> dict[str, Method]:
    try:
        import faiss
    except ImportError:
        return {}
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(weights.shape[1])
    index.add(weights)

    def with_threshold(threshold: int) -> Method:
        def run(x: NDArray[np.float32]) -> None:
            faiss.cvar.distance_compute_blas_threshold = threshold
            index.search(x, 1)

        return run

    return {"faiss_loop": with_threshold(1 << 30), "faiss_blas": with_threshold(1)}


def _usearch(weights: NDArray[np.float32], threads: int) -> dict[str, Method]:
    try:
        from usearch.compiled import MetricKind
        from usearch.index import search
    except ImportError:
        return {}
    return {"usearch": lambda x: search(weights, x, 1, MetricKind.IP, exact=True, threads=threads)}


def original_job(weights: NDArray[np.float32], centres: NDArray[np.float32]) -> Method:
    """The original's whole MixMaxSim job of 10 submodels, ported to torch as written: every call
    normalises W and C again and keeps all scores."""
    import torch as library

    w, c = library.from_numpy(weights), library.from_numpy(centres)
    cuts = [len(w) * k // 10 for k in range(11)]
    normalise = library.nn.functional.normalize

    def run(x: NDArray[np.float32]) -> Any:
        p = library.from_numpy(x)
        heads = [normalise(p) @ normalise(w[a:b]).T for a, b in itertools.pairwise(cuts)]
        best = library.stack([h.max(dim=1).values for h in heads])
        inside = library.stack([h.argmax(dim=1) for h in heads])
        k = best.argmax(dim=0)
        each = library.arange(len(x))
        A = inside[k, each] + library.tensor(cuts)[k]
        sims = normalise(p) @ normalise(c).T
        B = sims.argmax(dim=1)
        a, b, b_prime = best[k, each], sims[each, B], sims[each, A]
        a_prime = library.cat(heads, dim=1)[each, B]
        use_sim = (a <= 0.8) & (0.7 * b * (1 + a_prime) / 2 > a * (1 + b_prime) / 2)
        return library.where(use_sim, B, A)

    return run
