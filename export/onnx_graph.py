"""An ONNX graph under construction: what every export of ours is built with."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Shapes = Mapping[str, Sequence[int | str]]


class Graph:
    """Nodes and weights; every method returns the name of its output."""

    def __init__(self, name: str, *, opset: int, ir_version: int) -> None:
        self.name, self.opset, self.ir_version = name, opset, ir_version
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def exact(self, value: NDArray[np.generic], name: str = "") -> str:
        """A constant stored as it is."""
        name = name or f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """An operator with one output."""
        output = output or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def model(
        self, inputs: Shapes, outputs: Shapes, integers: Collection[str] = ()
    ) -> onnx.ModelProto:
        """The finished graph, checked; inputs and outputs are float32 but for `integers`, which are
        int64; a text in a shape is any number."""
        takes, gives = (
            [
                helper.make_tensor_value_info(
                    n, TensorProto.INT64 if n in integers else TensorProto.FLOAT, s
                )
                for n, s in some.items()
            ]
            for some in (inputs, outputs)
        )
        model = helper.make_model(
            helper.make_graph(self.nodes, self.name, takes, gives, self.weights),
            opset_imports=[helper.make_opsetid("", self.opset)],
            producer_name="edgeface",
            ir_version=self.ir_version,
        )
        onnx.checker.check_model(model, full_check=True)
        return model
