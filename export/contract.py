"""What a foreign ONNX embedder wants to be fed, found by trying.

Nothing in an ONNX file says whether it takes RGB or BGR, 0..255 or -1..1. A network that is fed
wrongly still answers, but tells people apart less well: of all ways the right one is that under
which pictures of one person (others of theirs, and mirrored ones) agree best compared with those of
strangers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeface.errors import EdgefaceError
from edgeface.models import InputSpec
from edgeface.models.card import Color, Layout

Floats = NDArray[np.float32]
Images = NDArray[np.uint8]
SIDE = 112  # px of a crop
LEAST, MOST = 4, 4096  # numbers in an embedding
PICTURES, MORE = 60, 240  # that all ways are compared on, and those that did nearly as well
NEARLY = 0.85  # of the best agreement: a network may hardly mind a change of contrast or colours
# Spread of embeddings below which a network says the same of every face.
CONSTANT = 1e-4
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RANGES: dict[str, tuple[tuple[float, float], tuple[float, ...], tuple[float, ...]]] = {
    "0..255": ((0.0, 255.0), (0.0,) * 3, (1.0,) * 3),
    "0..1": ((0.0, 1.0), (0.0,) * 3, (1.0,) * 3),
    "-1..1": ((-1.0, 1.0), (0.0,) * 3, (1.0,) * 3),
    "ImageNet's mean and deviation": ((0.0, 1.0), *IMAGENET),
}


@dataclass(frozen=True, slots=True, eq=False)
class Foreign:
    """A foreign network: its `model`, the `input` it takes in `layout`, whether one picture at a
    time (`single`), and which `output` is the embedding of `width` numbers."""

    model: onnx.ModelProto
    input: str
    layout: Layout
    single: bool
    output: str
    width: int
    run: Callable[[Floats], Floats]

    def embed(self, images: Images, spec: InputSpec) -> Floats:
        """(n, d) unit rows of crops (n, 112, 112, 3) uint8 BGR, fed as `spec` says.

        Raises:
            EdgefaceError: the network answers with what is no number.
        """
        size = 1 if self.single else 16
        parts = [
            self.run(spec.tensor(images[i : i + size])).reshape(-1, self.width)
            for i in range(0, len(images), size)
        ]
        rows = np.concatenate(parts)
        if not np.isfinite(rows).all():
            raise EdgefaceError(f"output {self.output} holds NaN or infinite values for faces")
        return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def read_model(path: Path) -> onnx.ModelProto:
    """An ONNX file.

    Raises:
        EdgefaceError: it is none.
    """
    try:
        model = onnx.load(str(path))
    except OSError as error:
        raise EdgefaceError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # protobuf's own, which says nothing of what the file is
        raise EdgefaceError(f"{path} is no ONNX model") from error
    if not model.graph.node:
        raise EdgefaceError(f"{path} is no ONNX model: it holds no network")
    return model


def open_foreign(path: Path) -> Foreign:
    """A foreign embedder, its input and the output that is an embedding found.

    Raises:
        EdgefaceError: it is no ONNX file, takes no crops of 112×112, or gives no embedding.
    """
    import onnxruntime as ort

    model = read_model(path)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 2, 3
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # the bindings raise a dozen unrelated classes
        raise EdgefaceError(f"{path} cannot be loaded by ONNX Runtime: {error}") from error
    inputs = session.get_inputs()
    if len(inputs) != 1:
        told = ", ".join(i.name for i in inputs)
        raise EdgefaceError(f"{path} takes {len(inputs)} inputs ({told}); an embedder takes one")
    first = inputs[0]
    layout = _layout(path, first.shape, first.type)
    single = isinstance(first.shape[0], int)
    if single and first.shape[0] != 1:
        raise EdgefaceError(f"{path} takes {first.shape[0]} pictures at a time; 1 or any is needed")
    shape = (2 - single, 3, SIDE, SIDE) if layout == "NCHW" else (2 - single, SIDE, SIDE, 3)
    probe = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    try:
        answers = session.run(None, {first.name: probe})
    except Exception as error:  # as above
        raise EdgefaceError(f"{path} cannot be run on {shape}: {error}") from error
    names = [o.name for o in session.get_outputs()]
    shapes = {n: tuple(np.shape(a)) for n, a in zip(names, answers, strict=True)}
    fit = {
        name: int(np.prod(s[1:]))
        for name, s in shapes.items()
        if len(s) >= 2 and s[0] == shape[0] and max(s[1:]) == np.prod(s[1:])
    }
    fit = {name: width for name, width in fit.items() if LEAST <= width <= MOST}
    if not fit:
        told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise EdgefaceError(
            f"{path} has no embedding among its outputs ({told}); one row of {LEAST} to {MOST} "
            "numbers for each picture is needed"
        )
    output = max(fit, key=lambda name: ("emb" in name.lower(), fit[name]))

    def run(tensor: Floats) -> Floats:
        return np.asarray(session.run([output], {first.name: tensor})[0], np.float32)

    return Foreign(model, first.name, layout, single, output, fit[output], run)


def _layout(path: Path, shape: list[int | str | None], kind: str) -> Layout:
    if kind != "tensor(float)":
        raise EdgefaceError(f"{path} takes {kind}; float32 pictures are needed")
    sides = [n if isinstance(n, int) else None for n in shape[1:]]
    layouts: dict[Layout, tuple[int, ...]] = {"NCHW": (3, SIDE, SIDE), "NHWC": (SIDE, SIDE, 3)}
    for layout, wanted in layouts.items():
        if len(sides) == 3 and all(n in {None, w} for n, w in zip(sides, wanted, strict=True)):
            return layout
    told = "×".join("?" if n is None else str(n) for n in shape)
    raise EdgefaceError(
        f"{path} takes {told}; crops of {SIDE}×{SIDE} in three colours are needed (n×3×112×112)"
    )


def ways(foreign: Foreign) -> dict[str, InputSpec]:
    """Every way of feeding the network that is tried, by its name."""
    colours: tuple[Color, ...] = ("RGB", "BGR")
    return {
        f"{color} {name}": InputSpec(
            foreign.input, foreign.layout, color, span,
            (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]), (SIDE, SIDE),
        )
        for color in colours
        for name, (span, mean, std) in RANGES.items()
    }  # fmt: skip


def agreement(rows: Floats, person: NDArray[np.int64]) -> float:
    """How far pairs of one person lie above pairs of two, in standard deviations (d')."""
    cosine = rows @ rows.T
    same = person[:, None] == person[None]
    upper = np.triu(np.ones_like(same), 1)
    genuine, impostor = cosine[same & upper], cosine[~same & upper]
    spread = np.sqrt((genuine.var() + impostor.var()) / 2)
    return float((genuine.mean() - impostor.mean()) / max(float(spread), 1e-6))


def find(
    foreign: Foreign, images: Images, person: NDArray[np.int64]
) -> tuple[InputSpec, dict[str, float]]:
    """The way in which the network wants crops (n, 112, 112, 3) uint8 BGR of people (n,), and the
    agreement under each way, best first.

    Raises:
        EdgefaceError: it says the same of every face, or what is no number.
    """
    order = np.random.default_rng(0).permutation(len(images))
    some, more = np.sort(order[:PICTURES]), np.sort(order[:MORE])
    tried, scores, steady = ways(foreign), dict[str, float](), True
    for name, spec in tried.items():
        rows = foreign.embed(images[some], spec)
        steady = steady and float(rows.std(axis=0).max()) < CONSTANT
        scores[name] = agreement(rows, person[some])
    if steady:
        raise EdgefaceError(f"output {foreign.output} says the same of every face")
    both = np.concatenate([images[more], images[more][:, :, ::-1]])
    best = max(scores.values())
    finals = {
        name: agreement(foreign.embed(both, tried[name]), np.tile(person[more], 2))
        for name, score in scores.items()
        if score >= NEARLY * best
    }
    winners = sorted(finals, key=lambda name: -finals[name])
    others = sorted(set(scores) - set(finals), key=lambda name: -scores[name])
    found = scores | finals
    return tried[winners[0]], {name: found[name] for name in (*winners, *others)}
