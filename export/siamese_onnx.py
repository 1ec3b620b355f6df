"""What `train siamese` made, as a model that `edgeface` loads: an ONNX file and its card.

A head is put behind the embedder that it was trained on, whose file and card it takes along; a
whole network is exported as it is. The threshold is measured on the people who were held out.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

from edgeface.document import Json
from edgeface.errors import ModelError
from edgeface.models import ModelCard, write_card
from export.threshold import Measured, card_of

OPSET = 17


def behind(card: ModelCard, weight: NDArray[np.float32]) -> onnx.ModelProto:
    """The graph of an embedder with a linear head (k, d) behind its unit embeddings.

    Raises:
        ModelError: the embedder's file is no ONNX file, or has no such output.
    """
    if card.path.suffix != ".onnx":
        raise ModelError(f"{card.path}: a head is put behind an ONNX file; export that form of it")
    model = onnx.load(str(card.path))
    graph, name = model.graph, card.output("embedding")
    taken, at = {o for node in graph.node for o in node.output}, "match"
    while f"{at}.raw" in taken:  # a head behind a head
        at += "+"
    inner, raw = f"{at}.input", f"{at}.raw"
    outputs = [o for o in graph.output if o.name == name]
    if not outputs:
        raise ModelError(f"{card.path}: expected an output {name}")
    for node in graph.node:
        node.output[:] = [inner if o == name else o for o in node.output]
        node.input[:] = [inner if i == name else i for i in node.input]
    stored = numpy_helper.from_array(np.ascontiguousarray(weight.T), f"{at}.weight")
    graph.initializer.append(stored)
    graph.node.append(helper.make_node("MatMul", [inner, stored.name], [raw]))
    graph.node.append(helper.make_node("LpNormalization", [raw], [name], axis=1, p=2))
    outputs[0].type.tensor_type.shape.dim[1].dim_value = len(weight)
    onnx.checker.check_model(model, full_check=True)
    return model


class _Unit(nn.Module):
    """A network with unit embeddings and their norm."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        raw = self.network(image)
        norm = raw.norm(dim=1, keepdim=True)
        return raw / norm.clamp_min(1e-12), norm


def whole(network: nn.Module, file: Path) -> None:
    """Write a network that takes RGB 0..255 (n, 3, 112, 112)."""
    module = _Unit(network).eval()
    with warnings.catch_warnings():
        # The exporter by tracing is announced to go; the newer one writes a graph of fixed batch.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.zeros(2, 3, 112, 112),), str(file), dynamo=False,
            input_names=["image"], output_names=["embedding", "norm"], opset_version=OPSET,
            dynamic_axes={name: {0: "n"} for name in ("image", "embedding", "norm")},
        )  # fmt: skip


def ship(file: Path, base: ModelCard | None, network: nn.Module, found: Measured) -> ModelCard:
    """Write the model and its card; `base` is the card of the embedder under a head, None for a
    whole network, `found` what strangers say of the network.

    Raises:
        EdgefaceError: see `behind`.
    """
    if base is None:
        whole(network, file)
    else:
        (weight,) = (v.detach().cpu().numpy() for v in network.state_dict().values())
        onnx.save(behind(base, weight), str(file))
    about: dict[str, Json] = {
        "bytes": file.stat().st_size,
        "backbone": base.name if base else "Inception-ResNet-v1",
        "training": {"phases": "siamese", "head_on": base.digest if base else ""},
        "metrics": found.metrics,
    }
    card = card_of(file, found, license=base.license if base else "", about=about)
    if base is not None:
        outputs = {"embedding": base.output("embedding")}
        card = replace(card, input=base.input, outputs=outputs)
    write_card(card)
    return card
