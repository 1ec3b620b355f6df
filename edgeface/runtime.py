"""Inference sessions: one protocol, ONNX Runtime and OpenVINO behind it.

Threads are always stated and never spin: two sessions in series (detector, embedder) with
spinning pools fight for the same cores and more than double the time of both.

Both libraries report their use to their makers: ONNX Runtime 1.32 writes a device id and a queue of
events and looks up a host, OpenVINO does the same through the package openvino_telemetry. Importing
this module turns both off, which has to happen before they are imported.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import platform
import sys
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from edgeface.errors import ArgumentError, ModelError
from edgeface.models import ModelCard

log = logging.getLogger(__name__)

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# OpenVINO goes on without the package; None makes importing it fail.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

Runtime = Literal["auto", "onnxruntime", "openvino"]
Chosen = Literal["onnxruntime", "openvino"]
# Sizes of an input for which OpenVINO keeps what it prepared. It keeps 5,000 by default: parts of
# frames made a detector take 314 MB in place of 195, for 12 % of the time.
KEPT_SIZES = 16
MAX_THREADS = 256  # each takes memory whether it works or not: a million filled 24 GB
Tensors = dict[str, NDArray[np.float32]]
Shape = tuple[int | None, ...]


class Session(Protocol):
    """A loaded network: `run` maps named float32 inputs to named float32 outputs; `inputs` are
    their shapes, None where any length will do, and `outputs` the names."""

    runtime: str

    @property
    def inputs(self) -> Mapping[str, Shape]: ...

    @property
    def outputs(self) -> Collection[str]: ...

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run the network once; shapes as the model's card states them."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """A runtime for a model on this machine, and why it is that one."""

    runtime: Chosen
    reason: str


# Why, in words for a user; `weigh` has the figures.
FLOAT = "float32: not slower than OpenVINO, in two thirds of its memory, and it starts sooner"
INT8 = "INT8 with a file of its own for it: seven times as fast as ONNX Runtime"


def weigh(card: ModelCard | None = None) -> Choice:
    """What `auto` means for a model on this machine: OpenVINO where the model has a file of its own
    for it, on x86 when it is installed; else ONNX Runtime.

    Shipped models have such a file where OpenVINO is the faster one: an INT8 embedder embeds 613
    faces a second in OpenVINO and 85 in ONNX Runtime, which has no fast INT8 PReLU. The default
    models in float32 named everybody in the sample clip with 2.82 s of processor time and 148 MB
    in ONNX Runtime, with 3.61 s and 215 MB in OpenVINO (medians of five). Parts of frames, whose
    sizes change, are detected in 2.7 ms in ONNX Runtime and 8.9 ms in OpenVINO, which prepares
    itself anew for every size.
    """
    own = card is not None and (card.path.suffix == ".xml" or "openvino" in card.variants)
    if not own:
        return Choice("onnxruntime", FLOAT)
    machine = platform.machine().lower()
    if machine not in {"x86_64", "amd64"}:
        return Choice("onnxruntime", f"OpenVINO's INT8 is for x86, this is {machine}")
    if importlib.util.find_spec("openvino") is None:
        return Choice(
            "onnxruntime", "OpenVINO is faster and not installed: pip install 'edgeface[openvino]'"
        )
    return Choice("openvino", INT8)


def choose(runtime: Runtime = "auto", card: ModelCard | None = None) -> Chosen:
    """The runtime to be used for a model: the one named, for `auto` what `weigh` says.

    Raises:
        ArgumentError: the runtime is unknown.
        ModelError: it is not installed.
    """
    if runtime not in get_args(Runtime):
        raise ArgumentError(
            f"runtime {runtime!r} is unknown; use one of {', '.join(get_args(Runtime))}"
        )
    if runtime == "auto":
        return weigh(card).runtime
    if importlib.util.find_spec(runtime) is None:
        extra = "edgeface[openvino]" if runtime == "openvino" else "onnxruntime"
        raise ModelError(f"runtime {runtime} is not installed; run: pip install '{extra}'")
    return runtime


def open_session(path: Path | str, *, runtime: Runtime = "auto", threads: int = 2) -> Session:
    """Load an ONNX file (or, for OpenVINO, an IR `.xml`) into the chosen runtime.

    Raises:
        ArgumentError: `threads` outside 1 to `MAX_THREADS`, or the runtime is unknown.
        ModelError: the file is missing or damaged, or the runtime is not installed.
    """
    path = Path(path)
    if not 1 <= threads <= MAX_THREADS:
        raise ArgumentError(f"threads is {threads}; give 1 to {MAX_THREADS}")
    if not path.is_file():
        raise ModelError(f"model file {path} does not exist")
    name = choose("openvino" if runtime == "auto" and path.suffix == ".xml" else runtime)
    if name == "onnxruntime" and path.suffix == ".xml":
        raise ModelError(f"{path} is an OpenVINO model; open it with runtime='openvino'")
    session = OpenVinoSession(path, threads) if name == "openvino" else OnnxSession(path, threads)
    log.debug("%s opened by %s with %d threads", path.name, name, threads)
    return session


def open_model(card: ModelCard, *, runtime: Runtime = "auto", threads: int = 2) -> Session:
    """Load the file that a model's card names for a runtime, and check that the network has the
    input and the outputs of which the card speaks.

    Raises:
        ArgumentError: `threads` outside 1 to `MAX_THREADS`, or the runtime is unknown.
        ModelError: a file is missing or damaged, the runtime is not installed, or the card does
            not describe the network.
    """
    chosen = choose(runtime, card)
    session = open_session(card.file_for(chosen), runtime=chosen, threads=threads)
    name = card.input.name
    if name not in session.inputs:
        _refuse(card, f"an input among {', '.join(session.inputs)}", repr(name), "$.input.name")
    shape = session.inputs[name]
    wanted = card.input.shape(card.input.size or (None, None))
    fits = (a is None or b is None or a == b for a, b in zip(shape[1:], wanted, strict=False))
    if len(shape) != 4 or not all(fits):
        found = "x".join("?" if n is None else str(n) for n in shape)
        _refuse(card, f"what fits the network's input {found}", card.input.layout, "$.input.layout")
    if card.input.size is None and None not in shape[2:]:
        _refuse(card, f"the network's size, {list(shape[2:])}", "nothing", "$.input.size")
    for role, output in card.outputs.items():
        if output not in session.outputs:
            known = ", ".join(sorted(session.outputs))
            _refuse(card, f"an output among {known}", repr(output), f"$.outputs.{role}")
    return session


def _refuse(card: ModelCard, expected: str, found: str, place: str) -> NoReturn:
    raise ModelError(f"{card.place}: expected {expected}, got {found} at {place}")


class OnnxSession:
    """ONNX Runtime on the CPU."""

    runtime = "onnxruntime"

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the bindings raise a dozen unrelated classes
            raise ModelError(f"{path} is not a model ONNX Runtime can load: {error}") from error
        self._path = path
        # One inference at a time: each that runs beside another has activations of its own, and
        # the session keeps that memory. Four cameras took 206 MB, and take 184 MB.
        self._lock = threading.Lock()
        self.outputs = [o.name for o in self._session.get_outputs()]
        self.inputs: dict[str, Shape] = {
            i.name: tuple(n if isinstance(n, int) else None for n in i.shape)
            for i in self._session.get_inputs()
        }

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run once; see `Session`."""
        try:
            with self._lock:
                found = self._session.run(None, dict(inputs))
        except Exception as error:  # as above
            raise ModelError(_failed(self._path, inputs, error)) from error
        return dict(zip(self.outputs, found, strict=True))


class OpenVinoSession:
    """OpenVINO on the CPU, one inference at a time for the lowest latency."""

    runtime = "openvino"

    def __init__(self, path: Path, threads: int) -> None:
        import openvino as ov

        core = ov.Core()
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": str(threads),
            "NUM_STREAMS": "1",
            # Some CPUs would silently drop to bfloat16 and shift similarities between machines.
            "INFERENCE_PRECISION_HINT": "f32",
            "CPU_RUNTIME_CACHE_CAPACITY": str(KEPT_SIZES),
        }
        try:
            model = core.compile_model(core.read_model(path), "CPU", config)
        except Exception as error:  # as above
            raise ModelError(f"{path} is not a model OpenVINO can load: {error}") from error
        self._path = path
        self._request = model.create_infer_request()
        self._lock = threading.Lock()  # a request takes one inference at a time
        # One tensor may carry several names (an output and the node it aliases): answer to each.
        self._names = [(i, name) for i, o in enumerate(model.outputs) for name in o.names]
        self.outputs = {name for _, name in self._names}
        self.inputs: dict[str, Shape] = {
            name: tuple(n.get_length() if n.is_static else None for n in port.partial_shape)
            for port in model.inputs
            for name in port.names
        }

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run once; see `Session`."""
        try:
            with self._lock:
                results = self._request.infer(dict(inputs), share_inputs=True, share_outputs=False)
                return {name: results[i] for i, name in self._names}
        except Exception as error:  # as above
            raise ModelError(_failed(self._path, inputs, error)) from error


def _failed(path: Path, inputs: Mapping[str, NDArray[Any]], error: Exception) -> str:
    fed = ", ".join(f"{name} {array.shape}" for name, array in inputs.items())
    return f"{path} cannot be run on {fed}; its card does not describe it: {error}"
