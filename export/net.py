"""An ONNX graph to be changed: what is connected to what, and the weights as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper, shape_inference, version_converter

Array = NDArray[Any]
OPSET = 17  # older graphs are brought to it; from 13 on weights may have a step per channel
OLDEST = 13
SMALL = 64  # weights of fewer numbers stay float32
HALF = 65504.0  # the largest float16


class Net:
    """A graph to be changed: `nodes` in order, `weights` by name, from `input` to `output`, an
    embedding of `size` numbers."""

    def __init__(self, model: onnx.ModelProto, output: str, width: int) -> None:
        model = onnx.ModelProto.FromString(model.SerializeToString())  # ours to change
        opset = next(o.version for o in model.opset_import if o.domain in {"", "ai.onnx"})
        if opset < OLDEST:
            model = version_converter.convert_version(model, OPSET)
            opset = OPSET
        graph = model.graph
        self.opset, self.imports = opset, [o for o in model.opset_import if o.domain]
        self.ir_version = max(8, model.ir_version)
        self.weights = {w.name: numpy_helper.to_array(w) for w in graph.initializer}
        self.nodes = list(graph.node)
        self.input = next(i.name for i in graph.input if i.name not in self.weights)
        self.shape = [d.dim_value for d in self._shape(graph.input)][1:]
        self.output, self.size = output, width
        self.free("image", "norm", "embedding")
        self.fold_constants()
        self.prune()

    def _shape(self, inputs: Any) -> Any:
        found = next(i for i in inputs if i.name == self.input)
        return found.type.tensor_type.shape.dim

    def producer(self, name: str) -> NodeProto | None:
        return next((node for node in self.nodes if name in node.output), None)

    def consumers(self, name: str) -> list[NodeProto]:
        return [node for node in self.nodes if name in node.input]

    def constant(self, name: str, value: Array) -> str:
        """A new weight under a name of its own."""
        while name in self.weights:
            name += "_"
        self.weights[name] = value
        return name

    def remove(self, node: NodeProto, instead: str) -> None:
        """Take out a node; who read its output reads `instead`."""
        gone = node.output[0]
        self.nodes.remove(node)
        for other in self.nodes:
            for i, name in enumerate(other.input):
                if name == gone:
                    other.input[i] = instead
        if self.output == gone:
            self.output = instead

    def free(self, *names: str) -> None:
        """Rename maps of these names: they are needed for something else."""
        for name in names:
            other = f"{name}.inner"
            for node in self.nodes:
                for i, given in enumerate(node.input):
                    node.input[i] = other if given == name else given
                for i, given in enumerate(node.output):
                    node.output[i] = other if given == name else given
            if name in self.weights:
                self.weights[other] = self.weights.pop(name)
            self.output = other if self.output == name else self.output
            self.input = other if self.input == name else self.input

    def fold_constants(self) -> None:
        """Work out, in ONNX Runtime, what depends on no picture."""
        import onnxruntime as ort

        known, nodes = {"", *self.weights}, []
        for node in list(self.nodes):
            if known.issuperset(node.input) and not node.op_type.startswith("Random"):
                known.update(node.output)
                nodes.append(node)
            elif node.op_type == "Identity":
                self.remove(node, node.input[0])
        if not nodes:
            return
        used = {name for node in nodes for name in node.input}
        given = [numpy_helper.from_array(w, n) for n, w in self.weights.items() if n in used]
        outputs = [onnx.ValueInfoProto(name=n) for node in nodes for n in node.output if n]
        graph = helper.make_graph(nodes, "constants", [], outputs, given)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        session = ort.InferenceSession(
            self._whole(graph).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = [o.name for o in outputs]
        self.weights |= dict(zip(names, map(np.asarray, session.run(names, {})), strict=True))
        self.nodes = [node for node in self.nodes if node not in nodes]

    def _whole(self, graph: onnx.GraphProto) -> onnx.ModelProto:
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset), *self.imports],
            producer_name="edgeface", ir_version=self.ir_version,
        )  # fmt: skip

    def prune(self) -> None:
        """Leave out what the output does not need."""
        needed, kept = {self.output}, []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        self.nodes = kept[::-1]
        self.weights = {n: w for n, w in self.weights.items() if n in needed}

    def bias(self, node: NodeProto) -> str:
        """The name of a convolution's or linear layer's bias, which it is given if it has none."""
        if len(node.input) > 2 and node.input[2]:
            return str(node.input[2])
        name = self.constant(f"{node.output[0]}.bias", np.zeros(self.width(node), np.float32))
        del node.input[2:]
        node.input.append(name)
        return name

    def width(self, node: NodeProto) -> int:
        """How many channels a convolution or linear layer gives."""
        weight = self.weights[node.input[1]]
        return int(weight.shape[self.axis(node)])

    def axis(self, node: NodeProto) -> int:
        """The axis of a weight that counts a layer's outputs."""
        return 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1

    def scale(self, node: NodeProto, factor: Array, shift: Array | float = 0.0) -> None:
        """Multiply the outputs of a convolution or linear layer and add to them, in its weights,
        which become its own."""
        weight, bias = self.weights[node.input[1]], self.weights[self.bias(node)]
        shape = [1] * weight.ndim
        shape[self.axis(node)] = -1
        node.input[1] = self.constant(
            f"{node.output[0]}.weight", (weight * factor.reshape(shape)).astype(np.float32)
        )
        node.input[2] = self.constant(
            f"{node.output[0]}.shift", (bias.reshape(-1) * factor + shift).astype(np.float32)
        )

    def shapes(self) -> dict[str, list[int]]:
        """The shapes of maps without their first axis, 0 where it is not known."""
        model = shape_inference.infer_shapes(self.model())
        return {
            v.name: [d.dim_value for d in v.type.tensor_type.shape.dim][1:]
            for v in (*model.graph.value_info, *model.graph.output)
        }

    def divide(self, node: NodeProto, factor: Array) -> None:
        """Divide what a convolution reads by `factor` (i,), in its weights."""
        weight = self.weights[node.input[1]].astype(np.float64)
        groups, inside = int(attribute(node, "group", 1)), weight.shape[1]
        # Output o belongs to group o // (outputs per group), whose inputs follow one another.
        group = np.arange(len(weight)) // (len(weight) // groups)
        place = group[:, None] * inside + np.arange(inside)[None]
        weight = weight / factor[place][:, :, None, None]
        node.input[1] = self.constant(f"{node.output[0]}.divided", weight.astype(np.float32))

    def model(self, *, half: bool = False, outputs: tuple[str, ...] = ()) -> onnx.ModelProto:
        """The graph as a model with the `outputs`, or its own; with `half` large weights are stored
        as float16 and cast back."""
        self.prune_for(outputs or (self.output,))
        weights, casts = [], []
        for name, value in self.weights.items():
            large = value.dtype == np.float32 and value.size >= SMALL
            if half and large and np.abs(value).max() < HALF:
                stored = numpy_helper.from_array(value.astype(np.float16), f"{name}.f16")
                casts.append(helper.make_node("Cast", [stored.name], [name], to=TensorProto.FLOAT))
            else:
                stored = numpy_helper.from_array(np.asarray(value, order="C"), name)
            weights.append(stored)
        size = [d or None for d in self.shape]
        ends: dict[str, list[str | int | None]] = {
            "embedding": ["n", self.size],
            "norm": ["n", 1],
        }
        takes = helper.make_tensor_value_info(self.input, TensorProto.FLOAT, ["n", *size])
        gives = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ends.get(name))
            for name in outputs or (self.output,)
        ]
        graph = helper.make_graph([*casts, *self.nodes], "embedder", [takes], gives, weights)
        return self._whole(graph)

    def prune_for(self, outputs: tuple[str, ...]) -> None:
        """Drop weights that nothing reads any more."""
        used = {name for node in self.nodes for name in node.input} | set(outputs)
        self.weights = {n: w for n, w in self.weights.items() if n in used}


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """An attribute of a node."""
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def odd(node: NodeProto) -> bool:
    """Whether a linear layer scales, or turns its input."""
    scaled = any(attribute(node, n, 1.0) != 1.0 for n in ("alpha", "beta"))
    return scaled or bool(attribute(node, "transA", 0))


def convolutions(net: Net) -> Iterator[NodeProto]:
    """Those whose weights are known, in order."""
    for node in net.nodes:
        if node.op_type == "Conv" and node.input[1] in net.weights:
            yield node
