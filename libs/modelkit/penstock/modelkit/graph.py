"""A small builder for ONNX graphs, and how they are run here.

Opset 20, ai.onnx.ml 4, IR 9 and standard operators only, so that ONNX Runtime, Triton's Python stub
and NVIDIA's ONNX Runtime backend all take the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

ML = "ai.onnx.ml"

DOUBLE = TensorProto.DOUBLE
FLOAT = TensorProto.FLOAT
INT64 = TensorProto.INT64
STRING = TensorProto.STRING

Array = np.ndarray[Any, np.dtype[Any]]


class Graph:
    """Nodes and numeric constants, equal ones shared; every value's name is made here, so that the same
    model always gives the same bytes.
    """

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._enclosed: tuple[int, onnx.ModelProto] | None = None
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._outputs_of: dict[bytes, tuple[str, ...]] = {}

    def input(self, name: str, kind: int, shape: list[int | str]) -> str:
        """Declares an input of the graph; one that is there already stays."""
        if name not in {value.name for value in self._inputs}:
            self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def enclose(self, model: onnx.ModelProto) -> None:
        """Puts the nodes of a model here, which is left as it is: it takes the values that `bind` named
        as its inputs, gives its outputs by their names, and its opsets hold for all nodes. No name in
        it may be one that is made here.
        """
        self._enclosed = len(self._nodes), model

    def bind(self, value: str, name: str) -> None:
        """Gives a value another name."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=name))

    def output(self, value: str, name: str, kind: int, shape: list[int | str]) -> None:
        self.bind(value, name)
        self._outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def constant(self, array: Array | list[Any] | float | int, dtype: type[Any]) -> str:
        """A numeric constant; equal ones are shared."""
        value = np.ascontiguousarray(np.asarray(array, dtype=dtype)).reshape(np.shape(array))
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._known:
            self._known[key] = f"c{len(self._constants)}"
            self._constants.append(numpy_helper.from_array(value, self._known[key]))
        return self._known[key]

    def texts(self, values: Sequence[str | bytes]) -> str:
        """A string constant [len(values)]; bytes may be part of a character."""
        name = f"c{len(self._constants)}"
        encoded: list[Any] = [value.encode() if isinstance(value, str) else value for value in values]
        self._constants.append(helper.make_tensor(name, STRING, [len(values)], encoded))
        return name

    def op(self, kind: str, *inputs: str, domain: str = "", outputs: int = 1, **attributes: Any) -> str:
        """The first output of a node; of equal nodes there is one."""
        return self.several(kind, *inputs, domain=domain, outputs=outputs, **attributes)[0]

    def several(
        self, kind: str, *inputs: str, domain: str = "", outputs: int, **attributes: Any
    ) -> tuple[str, ...]:
        """So many outputs of a node."""
        node = helper.make_node(kind, list(inputs), [], domain=domain, **attributes)
        made = node.SerializeToString(deterministic=True)
        if made not in self._outputs_of:
            first = f"v{len(self._nodes)}"
            node.name = first  # nameless ones collide in a fusion of ONNX Runtime before 1.22
            node.output.extend([first, *(f"{first}_{index}" for index in range(1, outputs))])
            self._nodes.append(node)
            self._outputs_of[made] = tuple(node.output)
        return self._outputs_of[made]

    def columns(self, value: str, indices: list[int]) -> str:
        """Columns [N, len(indices)] of a matrix, in this order, repeats allowed."""
        return self.op("Gather", value, self.constant(indices, np.int64), axis=1)

    def build(self, name: str) -> onnx.ModelProto:
        """The checked model. Raises onnx.checker.ValidationError."""
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, self._constants)
        if self._enclosed is None:
            opsets = [helper.make_opsetid("", 20), helper.make_opsetid(ML, 4)]
            model = helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="penstock")
        else:
            model = _around(*self._enclosed, graph)
        onnx.checker.check_model(model)
        return model


def _around(before: int, enclosed: onnx.ModelProto, graph: onnx.GraphProto) -> onnx.ModelProto:
    """The enclosed model with so many of the graph's nodes before its own, and the others behind."""
    model = onnx.ModelProto()
    model.CopyFrom(enclosed)
    nodes = [*graph.node[:before], *model.graph.node, *graph.node[before:]]
    del model.graph.node[:], model.graph.input[:], model.graph.output[:]
    model.graph.node.extend(nodes)
    model.graph.input.extend(graph.input)
    model.graph.output.extend(graph.output)
    model.graph.initializer.extend(graph.initializer)
    return model


class Runner:
    """A graph in ONNX Runtime: one thread, CPU."""

    def __init__(self, model: onnx.ModelProto | bytes) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        data = model if isinstance(model, bytes) else model.SerializeToString()
        self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self._inputs = {value.name for value in self._session.get_inputs()}
        self.outputs: tuple[str, ...] = tuple(value.name for value in self._session.get_outputs())

    def __call__(self, numbers: Array, strings: Array) -> dict[str, Array]:
        """numbers: float64 [N, n]; strings: object [N, m]; one without columns is left out."""
        feed = {
            name: value
            for name, value in (("numbers", numbers), ("strings", strings))
            if name in self._inputs
        }
        return dict(zip(self.outputs, self._session.run(None, feed), strict=True))
