"""Embedders to measure and to compare with: opened from any file, the original project's, the
teachers', and how their figures are named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import edgeface
from edgeface.embed import Embedder
from edgeface.models import parts
from export.protocols.identities import TEACHER, Embed, Floats, Source

WEIGHTS = Path(edgeface.__file__).parent / "weights"
ORIGINAL = "models/peers/original_mobilefacenet"
# Foreign files that want (x − 127.5) / 127.5, beside those of the original project.
SCALED = {TEACHER, "w600k_mbf"}
NAMED = {"original": f"{ORIGINAL}/optim.onnx", TEACHER: f"models/teachers/{TEACHER}.onnx"}


def open_embedder(
    path: Path, *, threads: int = 2, batch: int = 32, original: bool | None = None
) -> Embed:
    """(n, 112, 112, 3) uint8 BGR → (n, d) unit rows, by OpenVINO in float32. Files want RGB
    0..255, but for those in `SCALED` and the `original` project's, told by their folder unless it
    is said, which want (x − 127.5) / 127.5 and one picture at a time."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(str(path))
    foreign = "peers" in path.parts if original is None else original
    scaled = foreign or path.stem in SCALED
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
            if scaled:
                x = (x - 127.5) / 127.5
            pad = np.zeros((size - len(x), *x.shape[1:]), np.float32)
            rows.append(np.array(compiled(np.concatenate([x, pad]))[0])[: len(x)])
        out = np.concatenate(rows)
        unit: Floats = out / np.linalg.norm(out, axis=1, keepdims=True)
        return unit

    return embed


def source(name: str, shared: Path, cache: Path, *, every: int = 1) -> Source:
    """Where the embeddings of NAME or NAME=FILE come from, of one in `every` identities."""
    name, _, file = name.partition("=")
    path = Path(file) if file else shared / NAMED[name] if name in NAMED else None

    def open_embed() -> Embed:
        if path is not None:
            return open_embedder(path)
        return Embedder.load(name)

    shipped = WEIGHTS / f"{name}.onnx"
    stamp = hashlib.sha256(shipped.read_bytes()).hexdigest()[:8] if shipped.exists() else ""
    return Source(name, shared, cache, open_embed, "" if path else stamp, every)


def original(shared: Path) -> dict[str, Path]:
    peers = shared / ORIGINAL
    return {
        "fp32": peers / "optim.onnx",
        "fp16": peers / "openvino_fp16" / "optim.xml",
        "int8": peers / "openvino_ptq" / "quantized_model.xml",
    }


def teachers(shared: Path) -> dict[str, Path]:
    """The embedders that training learns from, by name."""
    folder = shared / "models" / "teachers"
    return {name: folder / f"{name}.onnx" for name in (TEACHER, "w600k_mbf", "mobilefacenet_y1")}


def size_mb(path: Path) -> float:
    """Megabytes (10⁶) of the model with its weights."""
    return sum(p.stat().st_size for p in parts(path)) / 1e6


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
