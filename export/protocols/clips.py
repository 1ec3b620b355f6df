"""Simulated clips: what a camera would have made of a good picture, and what an embedder makes of
that.

A clip shares what does not change while somebody walks by (light, distance at first, codec, sensor)
and varies what does (distance, alignment, motion blur, what is in the way), so that the frames of
one set differ in quality as the frames of a track do (strong then weak augmentation, CAFace, Kim et
al., NeurIPS 2022, section 4).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeface.alignment import TEMPLATE
from edgeface.errors import DataError
from edgeface.quality import rate
from edgeface.types import Face
from export.augment import STRONG, blur, jitter, light, noise, occlusion
from export.protocols.pictures import shrink

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

SMALLEST, LARGEST = 14.0, 90.0  # pixels of the face's frame when a clip begins, log-uniform
STAGES = ("res1_3.sum", "res2_5.sum")  # 64 maps of 28x28 and 128 of 14x14, see `with_style`
CLIPS, FRAMES = 2, 4  # of each picture, of each clip, to train on
BATCH = 32


def clip(image: Image, rng: np.random.Generator, frames: int) -> tuple[Image, Floats]:
    """Frames of one clip of a (112, 112, 3) uint8 BGR crop, and their face sizes (frames,) px."""
    size = float(np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST))))
    image = np.ascontiguousarray(image[:, ::-1] if rng.random() < 0.5 else image)
    image = light(image, rng) if rng.random() < 0.5 else image
    noisy, blurred, covered = rng.random() < 0.3, rng.uniform(0.1, 0.5), rng.uniform(0.0, 0.2)
    quality = int(rng.integers(20, 75))
    pictures, sizes = [], []
    for _ in range(frames):
        now = float(np.clip(size * np.exp(rng.normal(0.0, 0.35)), 8.0, 112.0))
        picture = jitter(image, rng, STRONG)
        picture = blur(picture, rng) if rng.random() < blurred else picture
        picture = occlusion(picture, rng) if rng.random() < covered else picture
        picture = shrink(picture, round(now))
        picture = noise(picture, rng) if noisy else picture
        pictures.append(compress(picture, quality))
        sizes.append(now)
    return np.stack(pictures), np.array(sizes, np.float32)


def compress(image: Image, quality: int) -> Image:
    """JPEG there and back."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def quality_of(crop: Image, size: float) -> float:
    """What `edgeface.quality.rate` says of a crop that came from a face `size` pixels wide."""
    scale = np.float32(size / 112.0)
    box = np.array([0, 0, size, size], np.float32)
    face = Face(box, np.asarray(TEMPLATE * scale, np.float32), 0.9)
    return rate(face, crop, (round(size) + 1, round(size) + 1))


def with_style(model: onnx.ModelProto) -> onnx.ModelProto:
    """The embedder with one more output `style` (n, 2 c): mean and standard deviation over the
    picture of every map at the end of two inner stages (AdaIN's style, Huang and Belongie 2017);
    as it is where the embedder has no such stages."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph, parts = model.graph, list[str]()
    if not {name for node in graph.node for name in node.output}.issuperset(STAGES):
        return model
    graph.initializer.append(numpy_helper.from_array(np.full(1, 1e-6, np.float32), "style.floor"))
    for stage in STAGES:
        mean, square, spread = f"{stage}.mean", f"{stage}.square", f"{stage}.spread"
        nodes: list[tuple[str, list[str], str, dict[str, Any]]] = [
            ("ReduceMean", [stage], mean, {"axes": [2, 3], "keepdims": 0}),
            ("Mul", [stage, stage], f"{square}d", {}),
            ("ReduceMean", [f"{square}d"], square, {"axes": [2, 3], "keepdims": 0}),
            ("Mul", [mean, mean], f"{mean}.squared", {}),
            ("Sub", [square, f"{mean}.squared"], f"{spread}.raw", {}),
            ("Max", [f"{spread}.raw", "style.floor"], f"{spread}.safe", {}),
            ("Sqrt", [f"{spread}.safe"], spread, {}),
        ]
        graph.node.extend(
            helper.make_node(kind, inputs, [out], name=out, **attributes)
            for kind, inputs, out, attributes in nodes
        )
        parts += [mean, spread]
    graph.node.append(helper.make_node("Concat", parts, ["style"], name="style", axis=1))
    graph.output.append(helper.make_tensor_value_info("style", TensorProto.FLOAT, ["n", None]))
    return model


def others(n: int, share: float) -> int:
    """How many of `n` frames are another person's: `share`, but at least one of four and more."""
    return max(1, round(n * share)) if share and n >= 4 else 0


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Faces as an embedder sees them, a row each: `embedding` (n, d) unit, `norm` (n,), `style`
    (n, s), `quality` (n,) of `edgeface.quality`, `person` and `picture` (n,) whose and of which
    source picture, `clip` (n,) numbered through, -1 for the undegraded picture."""

    embedding: Floats
    norm: Floats
    style: Floats
    quality: Floats
    person: NDArray[np.int64]
    picture: NDArray[np.int64]
    clip: NDArray[np.int64]

    def save(self, path: Path) -> None:
        """Write an `.npz`, styles in half precision."""
        columns = {name: getattr(self, name) for name in self.__slots__}
        np.savez(path, allow_pickle=False, **columns | {"style": self.style.astype(np.float16)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote."""
        with np.load(path) as file:
            columns = {name: file[name] for name in cls.__slots__}
        return cls(**columns | {"style": columns["style"].astype(np.float32)})

    @classmethod
    def given(cls, path: Path, size: int) -> Features:
        """Somebody else's tracks, an `.npz`: `features` (n, size) before they were made unit,
        `person` (n,), `track` (n,) numbered through, -1 for a good picture to be found by, and
        perhaps `quality` (n,) in [0, 1]. People without a good picture or a track are left out.

        Raises:
            DataError: it is none of this, or has fewer than 20 such people.
        """
        try:
            with np.load(path) as file:
                found = {name: file[name] for name in file.files}
            raw, person = np.asarray(found["features"], np.float32), found["person"]
            track = np.asarray(found["track"], np.int64)
            quality = np.asarray(found.get("quality", np.ones(len(raw))), np.float32)
        except (OSError, ValueError, EOFError, BadZipFile, KeyError) as error:
            raise DataError(
                f"{path}: {error}; expected an .npz with features, person and track"
            ) from error
        columns = (person, track, quality)
        if raw.ndim != 2 or raw.shape[1] != size or any(c.shape != raw.shape[:1] for c in columns):
            raise DataError(
                f"{path}: expected features (n, {size}) with a person, a track and a quality each, "
                f"got {raw.shape}"
            )
        norm = np.linalg.norm(raw, axis=1)
        if not np.isfinite(norm).all() or not norm.all():
            raise DataError(f"{path}: features that are zero or not finite have no direction")
        number = np.unique(person, return_inverse=True)[1].astype(np.int64)
        whole = np.intersect1d(number[track < 0], number[track >= 0])
        if len(whole) < 20:
            raise DataError(
                f"{path}: {len(whole)} people with a good picture (track -1) and a track; 20 are "
                "the least to learn from"
            )
        # Every good picture and every track is a source of its own.
        alone = np.arange(len(track)) + (track.max() + 1)
        picture = np.where(track < 0, alone, track)
        unit = (raw / norm[:, None]).astype(np.float32)
        style = np.zeros((len(raw), 1), np.float32)
        rows = np.isin(number, whole)
        return cls(unit, norm, style, quality, number, picture, track).only(rows)

    def only(self, rows: NDArray[np.bool_] | slice) -> Features:
        """Some of the rows."""
        return Features(*(getattr(self, name)[rows] for name in self.__slots__))

    @classmethod
    def join(cls, parts: Sequence[Features]) -> Features:
        """All rows of several."""
        columns = (np.concatenate([getattr(p, name) for p in parts]) for name in cls.__slots__)
        return cls(*columns)


class Describer:
    """An embedder with style, norm and quality, on one thread of ONNX Runtime."""

    def __init__(self, model: Path, *, threads: int = 1) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        blob = with_style(onnx.load(str(model))).SerializeToString()
        self._session = ort.InferenceSession(blob, options, providers=["CPUExecutionProvider"])

    def __call__(self, crops: Image) -> tuple[Floats, Floats, Floats]:
        """(n, d) unit embeddings, (n,) norms and (n, s) styles of (n, 112, 112, 3) uint8 BGR; s
        is 0 where the embedder has no stages that style is read from."""
        planes = np.ascontiguousarray(crops[..., ::-1].transpose(0, 3, 1, 2), np.float32)
        rows, norm, *style = self._session.run(None, {"image": planes})
        return rows, norm[:, 0], style[0] if style else np.empty((len(rows), 0), np.float32)


def describe(
    describer: Describer,
    pictures: Sequence[Image] | NDArray[np.uint8],
    person: NDArray[np.int64],
    *,
    clips: int,
    frames: int,
    seed: int = 0,
) -> Features:
    """Features of every picture as it is and in `clips` clips of `frames` frames."""
    rows: list[tuple[Floats, Floats, Floats]] = []
    about: list[tuple[int, int, int]] = []
    quality: list[float] = []
    waiting: list[Image] = []
    for i in range(len(pictures)):
        rng = np.random.default_rng([seed, i])
        image = np.asarray(pictures[i])
        waiting.append(image)
        about.append((int(person[i]), i, -1))
        quality.append(quality_of(image, 112.0))
        for number in range(clips):
            seen, sizes = clip(image, rng, frames)
            waiting += list(seen)
            about += [(int(person[i]), i, i * clips + number)] * frames
            quality += [quality_of(c, float(s)) for c, s in zip(seen, sizes, strict=True)]
        while len(waiting) >= BATCH or (waiting and i == len(pictures) - 1):
            rows.append(describer(np.stack(waiting[:BATCH])))
            del waiting[:BATCH]
        if i % 100 == 0:
            print(f"\rclips: {i}/{len(pictures)}", end="", file=sys.stderr, flush=True)
    embedding, norm, style = (np.concatenate([r[j] for r in rows]) for j in range(3))
    people, source, number = np.array(about, np.int64).T
    print(f"\rclips: {len(embedding)} faces described", file=sys.stderr)
    return Features(embedding, norm, style, np.array(quality, np.float32), people, source, number)
