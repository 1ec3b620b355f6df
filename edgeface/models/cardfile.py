"""The file of a card: JSON, read strictly and written back without loss.

What a program acts on is obeyed or refused with the place named; an unknown field within it is
refused too, for it would be ignored. Unknown fields at the top are documentation and are kept.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import cast, get_args

from edgeface.document import Fields, Json, read
from edgeface.errors import ModelError
from edgeface.metrics import Interval
from edgeface.models.card import (
    Color,
    FileRef,
    FusionSpec,
    Group,
    Impostors,
    InputSpec,
    Layout,
    ModelCard,
    Task,
)
from edgeface.types import Threshold

RUNTIMES = ("onnxruntime", "openvino")  # those that a card may name a file for
ALIGNMENT = "arcface-112"  # the one way in which crops are aligned (`edgeface.alignment`)
CROP = (112, 112)  # height and width of such crops, px
_SIDE = 10_000  # px, the longest side of an input, and numbers in an embedding
_WIDE = 1e6  # of input values
_MANY = 1 << 53  # of counts: beyond this JSON's numbers are not exact
_INPUT = ("name", "layout", "color", "range", "mean", "std", "size")
_INTERVAL = ("value", "low", "high")
_IMPOSTORS = ("value", "low", "high", "fpir", "size", "trials", "measured", "rates", "values")
_KNOWN = (
    "name",
    "task",
    "family",
    "file",
    "sha256",
    "input",
    "outputs",
    "embedding_size",
    "alignment",
    "license",
    "threshold",
    "impostors",
    "groups",
    "fusion",
    "variants",
)


def read_card(file: Path) -> ModelCard:
    """Parse one card.

    Raises:
        ModelError: the card is unreadable, lacks a field, or asks for what edgeface cannot do; the
            message names the file, the place, what was expected and what stands there.
    """
    fields = read(file, ModelError)
    task = cast(Task, fields.text("task", *get_args(Task)))
    main = _file(fields, file)
    embedder = task == "embedding"
    threshold = fields.fields("threshold")
    low, high = (-1.0, 1.0) if embedder else (0.0, 1.0)
    return ModelCard(
        name=fields.text("name"),
        task=task,
        path=main.path,
        digest=main.digest,
        size=fields.whole("embedding_size", 1, _SIDE) if embedder else 0,
        threshold=Threshold(threshold.number("value", low, high), "card"),
        input=_input(fields.fields("input"), task),
        outputs=_outputs(fields),
        family=fields.text("family", default="grid" if task == "detection" else ""),
        alignment=fields.text("alignment", ALIGNMENT, default=ALIGNMENT) if embedder else "",
        derivation=threshold.text("origin", default=""),
        license=fields.text("license", default=""),
        impostors=_impostors(fields.fields("impostors")) if "impostors" in fields else None,
        groups=_groups(fields.fields("groups")) if "groups" in fields else (),
        fusion=_fusion(fields.fields("fusion"), file) if "fusion" in fields else None,
        variants=_variants(fields.fields("variants"), file) if "variants" in fields else {},
        about=fields.others(*_KNOWN),
    )


def write_card(card: ModelCard) -> Path:
    """Write a card beside its model, so that `read_card` gives an equal one; returns its path."""
    document: dict[str, Json] = {"name": card.name, "task": card.task}
    if card.family:
        document["family"] = card.family
    document |= {"file": card.path.name, "sha256": card.digest, "input": _plain_input(card.input)}
    if card.outputs:
        document["outputs"] = dict(card.outputs)
    if card.task == "embedding":
        document |= {"embedding_size": card.size, "alignment": card.alignment}
    document |= card.about
    if card.license:
        document["license"] = card.license
    document["threshold"] = {"value": card.threshold.value, "origin": card.derivation}
    if card.impostors is not None:
        document["impostors"] = _plain_impostors(card.impostors)
    if card.groups:
        document["groups"] = {g.name: {**asdict(g.rate), "pairs": g.pairs} for g in card.groups}
    if card.fusion is not None:
        networks = {"update": card.fusion.update, "readout": card.fusion.readout}
        document["fusion"] = {
            "centres": card.fusion.centres,
            "width": card.fusion.width,
            **{role: _plain_file(ref) for role, ref in networks.items()},
            **card.fusion.about,
        }
    if card.variants:
        document["variants"] = {k: _plain_file(ref) for k, ref in card.variants.items()}
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    card.place.write_text(text + "\n", encoding="utf-8")
    return card.place


def _file(fields: Fields, card: Path) -> FileRef:
    """A file beside the card and its digest."""
    name, sha = fields.text("file"), fields.text("sha256")
    if name in {"", ".", ".."} or any(c in name for c in "/\\\0") or len(name.encode()) > 255:
        fields.refuse("file", "the name of a file beside the card", name)
    if not re.fullmatch("[0-9a-f]{64}", sha):
        fields.refuse("sha256", "64 hexadecimal digits", sha)
    return FileRef(card.parent / name, sha)


def _plain_file(ref: FileRef) -> dict[str, Json]:
    return {"file": ref.path.name, "sha256": ref.digest}


def _input(fields: Fields, task: str) -> InputSpec:
    fields.only(*_INPUT)
    low, high = fields.numbers("range", -_WIDE, _WIDE, count=2, default=(0.0, 255.0))
    if low >= high:
        fields.refuse("range", "black's value, then white's larger one", [low, high])
    mean = fields.numbers("mean", -_WIDE, _WIDE, count=3, default=(0.0, 0.0, 0.0))
    std = fields.numbers("std", 1 / _WIDE, _WIDE, count=3, default=(1.0, 1.0, 1.0))
    size = CROP if task == "embedding" else None
    if "size" in fields:
        height, width = fields.numbers("size", 1, _SIDE, count=2)
        size = (int(height), int(width))
    if task == "embedding" and size != CROP:
        fields.refuse("size", "[112, 112], the size of aligned crops", list(size or ()))
    color = fields.text("color", "BGR", "RGB", default="RGB" if task == "embedding" else "BGR")
    return InputSpec(
        name=fields.text("name"),
        layout=cast(Layout, fields.text("layout", "NCHW", "NHWC", default="NCHW")),
        color=cast(Color, color),
        range=(low, high),
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        size=size,
    )


def _plain_input(spec: InputSpec) -> dict[str, Json]:
    plain: dict[str, Json] = {"name": spec.name, "layout": spec.layout, "color": spec.color}
    plain["range"] = [int(v) if v.is_integer() else v for v in spec.range]
    if any(spec.mean) or spec.std != (1.0, 1.0, 1.0):
        plain |= {"mean": list(spec.mean), "std": list(spec.std)}
    if spec.size is not None:
        plain["size"] = list(spec.size)
    return plain


def _outputs(fields: Fields) -> dict[str, str]:
    """What a program calls an output → what the network calls it; a list says that both agree."""
    if "outputs" not in fields:
        return {}
    if fields.is_list("outputs"):
        return {name: name for name in fields.texts("outputs")}
    outputs = fields.fields("outputs")
    return {role: outputs.text(role) for role in outputs}


def _impostors(fields: Fields) -> Impostors:
    fields.only(*_IMPOSTORS)
    measured = fields.fields("measured")
    measured.only(*_INTERVAL)
    rates = fields.numbers("rates", 0.0, 1.0)
    if not rates or any(b <= a for a, b in pairwise(rates)):
        fields.refuse("rates", "ascending rates, one or more", list(rates))
    return Impostors(
        value=fields.number("value", -1.0, 1.0),
        low=fields.number("low", -1.0, 1.0),
        high=fields.number("high", -1.0, 1.0),
        fpir=fields.number("fpir", 0.0, 1.0),
        size=fields.whole("size", 1, _MANY),
        trials=fields.whole("trials", 1, _MANY),
        measured=_rate(measured),
        rates=rates,
        values=fields.numbers("values", -1.0, 1.0, count=len(rates)),
    )


def _plain_impostors(impostors: Impostors) -> dict[str, Json]:
    plain = {name: getattr(impostors, name) for name in _IMPOSTORS}
    plain["measured"] = asdict(impostors.measured)
    return plain | {"rates": list(impostors.rates), "values": list(impostors.values)}


def _groups(fields: Fields) -> tuple[Group, ...]:
    found = []
    for name in fields:
        one = fields.fields(name)
        one.only(*_INTERVAL, "pairs")
        found.append(Group(name, _rate(one), one.whole("pairs", 1, _MANY)))
    return tuple(found)


def _rate(fields: Fields) -> Interval:
    value, low, high = (fields.number(key, 0.0, 1.0) for key in _INTERVAL)
    return Interval(value, low, high)


def _fusion(fields: Fields, card: Path) -> FusionSpec:
    return FusionSpec(
        fields.whole("centres", 1, _SIDE),
        fields.whole("width", 0, _SIDE),
        _file(fields.fields("update"), card),
        _file(fields.fields("readout"), card),
        fields.others("centres", "width", "update", "readout"),
    )


def _variants(fields: Fields, card: Path) -> dict[str, FileRef]:
    fields.only(*RUNTIMES)
    return {runtime: _file(fields.fields(runtime), card) for runtime in fields}
