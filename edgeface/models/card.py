"""What a model's card says, typed: everything that a program acts on, and the rest as `about`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeface.document import Json
from edgeface.metrics import Interval
from edgeface.types import Array, Threshold

Task = Literal["detection", "embedding", "landmarks"]
Layout = Literal["NCHW", "NHWC"]
Color = Literal["BGR", "RGB"]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a network is fed: the `name` of its input, `layout`, channel order `color`, the values
    `range` that black (0) and white (255) become, then `mean` subtracted and divided by `std` per
    channel, in the order of `color`; `size` (height, width) px, None for any."""

    name: str
    layout: Layout = "NCHW"
    color: Color = "RGB"
    range: tuple[float, float] = (0.0, 255.0)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    size: tuple[int, int] | None = None

    def tensor(self, images: NDArray[np.uint8]) -> Array:
        """Pictures (n, H, W, 3) uint8 BGR as the float32 tensor the network wants."""
        if self.color == "RGB":
            images = images[..., ::-1]
        if self.layout == "NCHW":
            images = images.transpose(0, 3, 1, 2)
        tensor = np.ascontiguousarray(images, dtype=np.float32)
        low, high = self.range
        std = np.asarray(self.std)
        scale = (high - low) / 255.0 / std
        shift = (low - np.asarray(self.mean)) / std
        if (scale != 1.0).any() or shift.any():
            shape = (3, 1, 1) if self.layout == "NCHW" else (3,)
            tensor *= scale.reshape(shape).astype(np.float32)
            tensor += shift.reshape(shape).astype(np.float32)
        return tensor

    def shape(self, size: tuple[int | None, int | None]) -> tuple[int | None, ...]:
        """The shape of one picture of `size` (height, width) in the network's layout."""
        return (3, *size) if self.layout == "NCHW" else (*size, 3)


@dataclass(frozen=True, slots=True)
class FileRef:
    """A file of a model: its `path` and `digest`, sha256 as hex (see `models.digest`)."""

    path: Path
    digest: str


@dataclass(frozen=True, slots=True)
class Impostors:
    """How similar strangers are: the threshold `value` at false-positive identification rate
    `fpir` in a gallery of `size`, between `low` and `high`; the rate `measured` with its interval
    from `trials` searches; the threshold for other `rates`, ascending, in `values`."""

    value: float
    low: float
    high: float
    fpir: float
    size: int
    trials: int
    measured: Interval
    rates: tuple[float, ...] = field(repr=False)
    values: tuple[float, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Group:
    """How often two people of one group pass for one another at the card's threshold, measured on
    so many `pairs`."""

    name: str
    rate: Interval
    pairs: int


@dataclass(frozen=True, slots=True)
class FusionSpec:
    """The networks that fuse embeddings (`aggregate.Learned`): learned `centres`, the `width` of
    their notes, and what was measured of them in `about`."""

    centres: int
    width: int
    update: FileRef
    readout: FileRef
    about: Mapping[str, Json] = field(default_factory=dict, repr=False, hash=False)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model.

    `path` and `digest` of its file, the `task`, embedding `size` (0 for others), default
    `threshold` and in words how it was found (`derivation`), its `input`, the `outputs` (what a
    program calls them → what the network calls them), the `family` that reads a detector's
    outputs, and the `alignment` of an embedder's crops. `variants` are files for one runtime only
    (runtime → file). `about` holds what is for people only: training, metrics, precision.
    """

    name: str
    task: Task
    path: Path
    digest: str
    size: int
    threshold: Threshold
    input: InputSpec
    outputs: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    family: str = ""
    alignment: str = ""
    derivation: str = field(default="", repr=False)
    license: str = field(default="", repr=False)
    impostors: Impostors | None = field(default=None, repr=False)
    groups: tuple[Group, ...] = field(default=(), repr=False)
    fusion: FusionSpec | None = field(default=None, repr=False)
    variants: Mapping[str, FileRef] = field(default_factory=dict, repr=False, hash=False)
    about: Mapping[str, Json] = field(default_factory=dict, repr=False, hash=False)

    @property
    def place(self) -> Path:
        """The card's own file."""
        return self.path.with_suffix(".json")

    def file_for(self, runtime: str) -> Path:
        """The file a runtime should load: its variant, or the one for all."""
        return self.variants[runtime].path if runtime in self.variants else self.path

    def output(self, role: str) -> str:
        """The network's name for one of its outputs."""
        return self.outputs.get(role, role)

    def files(self) -> Iterator[FileRef]:
        """Every file of the model: the network, its forms for one runtime, and the networks that
        fuse its embeddings."""
        yield FileRef(self.path, self.digest)
        yield from self.variants.values()
        if self.fusion is not None:
            yield from (self.fusion.update, self.fusion.readout)
