"""A bank as a file of a runtime, for people who stay inside one.

`probes` (q, d) float32 give `class` (q, 1) int64 and `similarity` (q, 1) by the bank's rule, and
all votes where the rule is mixmaxsim: `a`, `a_prime`, `b`, `b_prime`. Class rows are stored in one
of `PRECISIONS`: float32; float16, what a bank itself keeps, so that nothing is lost; int8 with a
scale per class, a quarter of float32. Arithmetic is float32 in all of them.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeface import score
from edgeface.runtime import open_session
from edgeface.submodels import SubmodelBank
from export.onnx_graph import Graph

Floats = NDArray[np.float32]
Precision = Literal["float32", "float16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
BATCH = 1024


class _Bank(Graph):
    def __init__(self, precision: Precision) -> None:
        super().__init__("submodels", opset=17, ir_version=9)
        self._precision = precision

    def scalar(self, value: float) -> str:
        return self.exact(np.array([value], np.float32))

    def scores(self, rows: score.Rows | score.QuantizedRows) -> str:
        """Cosines (q, n) of class rows (n, d). Those in int8 are scaled afterwards: a product with
        dequantized weights is one that OpenVINO computes in bfloat16."""
        exact = rows.exact if isinstance(rows, score.QuantizedRows) else rows
        if self._precision == "int8":
            whole = score.quantize(exact)
            codes = whole.codes[:, : exact.shape[1]].astype(np.int16) - 128
            product = self._product(codes.astype(np.int8))
            return self.node("Mul", product, self.exact(whole.scale))
        return self._product(exact.astype(self._precision))

    def _product(self, rows: NDArray[np.generic]) -> str:
        stored = self.exact(np.ascontiguousarray(rows.T))
        if rows.dtype != np.float32:
            stored = self.node("Cast", stored, to=onnx.TensorProto.FLOAT)
        return self.node("MatMul", "x", stored)

    def best(self, scores: str) -> tuple[str, str]:
        """The row of the highest score (q, 1), and the score."""
        row = self.node("ArgMax", scores, axis=1)
        return row, self.node("GatherElements", scores, row, axis=1)


def graph(bank: SubmodelBank, precision: Precision = "float32") -> onnx.ModelProto:
    """The graph of a bank."""
    g, kind = _Bank(precision), bank.rule.kind
    main = bank.centres if kind == "sim" and bank.centres is not None else bank.weights
    g.node("LpNormalization", "probes", output="x", axis=1, p=2)
    scores = g.scores(main)
    row, similarity = g.best(scores)
    outputs = ["class", "similarity"]
    if kind == "mixmaxsim" and bank.centres is not None:
        row, similarity = _mixed(g, bank, scores, g.scores(bank.centres))
        outputs += ["a", "a_prime", "b", "b_prime"]
    g.node("Identity", similarity, output="similarity")
    g.node("Gather", g.exact(np.asarray(bank.ids)), row, output="class")
    size = (main.exact if isinstance(main, score.QuantizedRows) else main).shape[1]
    shapes: dict[str, list[int | str]] = {name: ["q", 1] for name in outputs}
    return g.model({"probes": ["q", size]}, shapes, integers={"class"})


def _mixed(g: _Bank, bank: SubmodelBank, by_weight: str, by_centre: str) -> tuple[str, str]:
    """MixMaxSim as `edgeface.submodels.choose` has it: row and similarity."""
    (first, a), (second, b) = g.best(by_weight), g.best(by_centre)
    a_prime = g.node("GatherElements", by_weight, second, axis=1)
    b_prime = g.node("GatherElements", by_centre, first, axis=1)
    for name, value in {"a": a, "a_prime": a_prime, "b": b, "b_prime": b_prime}.items():
        g.node("Identity", value, output=name)
    one, half = g.scalar(1.0), g.scalar(0.5)
    left = g.node("Mul", g.node("Mul", b, g.node("Add", a_prime, one)), g.scalar(bank.rule.tau))
    right = g.node("Mul", a, g.node("Add", b_prime, one))
    unsure = g.node("Not", g.node("Greater", a, g.scalar(bank.rule.gamma)))
    nearest = g.node("And", g.node("Greater", left, right), unsure)
    row = g.node("Where", nearest, second, first)
    total = g.node("Where", nearest, g.node("Add", b, a_prime), g.node("Add", a, b_prime))
    return row, g.node("Mul", total, half)


def to_onnx(bank: SubmodelBank, path: Path, precision: Precision = "float32") -> None:
    """Write the bank as ONNX."""
    onnx.save(graph(bank, precision), str(path))


def to_openvino(onnx_path: Path, path: Path) -> None:
    """The ONNX export as OpenVINO IR, its class rows stored as they are there."""
    import openvino
    from openvino import opset13 as op

    model = openvino.convert_model(str(onnx_path))
    for weights in onnx.load(str(onnx_path)).graph.initializer:
        small = numpy_helper.to_array(weights)
        if small.ndim != 2 or small.dtype == np.float32:
            continue
        # Conversion has worked the casts out: put the small constants back.
        for node in _constants(model, small):
            own = small if node.shape == small.shape else small.T
            cast = op.convert(op.constant(np.ascontiguousarray(own)), "f32")
            for taker in list(node.output(0).get_target_inputs()):
                taker.replace_source_output(cast.output(0))
    # Opened with default settings, a CPU that has bfloat16 would use it and decide differently. It
    # uses it all the same for int8, where similarities are .003 off.
    for node in model.get_ops():
        node.get_rt_info()["precise_0"] = True
    openvino.save_model(model, str(path), compress_to_fp16=False)


def _constants(model: Any, small: NDArray[np.generic]) -> list[Any]:
    """The float32 constants of an OpenVINO model that hold `small`, turned or not."""
    wanted = small.astype(np.float32)
    return [
        node
        for node in model.get_ops()
        if node.get_type_name() == "Constant"
        and any(
            tuple(node.shape) == form.shape and np.array_equal(node.data, form)
            for form in (wanted, wanted.T)
        )
    ]


def changed(path: Path, bank: SubmodelBank, probes: Floats) -> float:
    """The share of unit probes (q, d) that a file gives another class than the bank, opened as
    those do who know nothing of it: an .xml with OpenVINO's own settings."""
    parts = [probes[i : i + BATCH] for i in range(0, len(probes), BATCH)]
    if path.suffix == ".xml":
        import openvino

        model = openvino.Core().compile_model(str(path), "CPU")
        found = [np.asarray(model(part)["class"]) for part in parts]
    else:
        session = open_session(path, threads=2)
        found = [session.run({"probes": part})["class"] for part in parts]
    return float((np.concatenate(found)[:, 0] != bank.classify(probes)[0]).mean())


def export(
    bank: SubmodelBank, probes: Floats, onnx_path: Path | None, openvino_path: Path | None
) -> dict[str, dict[str, float]]:
    """Write a bank in every precision, `NAME.onnx`, `NAME.float16.onnx` and `NAME.int8.onnx`, and
    the same as .xml; each is opened again and asked about `probes`. One that gives any of them
    another class than the bank is removed and told on stderr: a file decides as the bank does, or
    there is none. Returns bytes and the share of changed classes, which is 0, by file name."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for precision in PRECISIONS:
            own = Path(scratch) / "bank.onnx"
            to_onnx(bank, own, precision)
            writers: list[tuple[Path | None, Callable[[Path], object]]] = [
                (onnx_path, lambda path, p=precision: to_onnx(bank, path, p)),  # type: ignore[misc]
                (openvino_path, lambda path, own=own: to_openvino(own, path)),  # type: ignore[misc]
            ]
            for path, write in writers:
                if path is None:
                    continue
                stem = path.stem if precision == "float32" else f"{path.stem}.{precision}"
                file = path.with_name(stem + path.suffix)
                write(file)
                found |= _gate(file, bank, probes)
    return found


def _gate(file: Path, bank: SubmodelBank, probes: Floats) -> dict[str, dict[str, float]]:
    share = changed(file, bank, probes)
    files = [file, file.with_suffix(".bin")] if file.suffix == ".xml" else [file]
    size = sum(f.stat().st_size for f in files)
    if share > 0:
        for f in files:
            f.unlink()
        print(
            f"heads: {file.name} is left out: {round(share * len(probes))} of {len(probes)} "
            "validation probes get another class than from the bank; take a file of more bits",
            file=sys.stderr,
        )
        return {}
    return {file.name: {"bytes": float(size), "changed": share}}
