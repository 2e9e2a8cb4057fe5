"""Nodes around a foreign graph: the pipeline's inputs in front of it, its answers and the decision
behind. They are of operators that every opset from 11 to 20 has alike.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, compose

from penstock.contracts.errors import Invalid
from penstock.modelkit.decision import compile_outputs
from penstock.modelkit.graph import Graph
from penstock.packages.parts import ModelSignature

PREFIX = "imported/"
_REALS = (TensorProto.FLOAT, TensorProto.DOUBLE)


class Adapted:
    """A foreign graph between adapters. `build` gives it with a decision, or without one."""

    def __init__(self, model: onnx.ModelProto, signature: ModelSignature) -> None:
        self.signature = signature
        self._model = compose.add_prefix(model, PREFIX)

    def build(
        self, threshold: float | None = None, abstain: tuple[float, float] | None = None
    ) -> onnx.ModelProto:
        """The whole graph. `threshold`: binary only. Raises Invalid, with the input or output, where the
        graph does not fit the pipeline.
        """
        graph = Graph()
        self._feed(graph)
        graph.enclose(self._model)
        compile_outputs(graph, self._answer(graph), self.signature, threshold, abstain)
        return graph.build(self.signature.target.name)

    def _feed(self, graph: Graph) -> None:
        """The pipeline's inputs, and from them those of the foreign graph."""
        inputs = self.signature.inputs
        sides = (
            ("numbers", TensorProto.DOUBLE, inputs.numbers),
            ("strings", TensorProto.STRING, inputs.strings),
        )
        given = {graph.input(name, kind, ["N", len(of)]) for name, kind, of in sides if of}
        theirs = self._model.graph
        constants = {tensor.name for tensor in theirs.initializer}
        shaped = {
            one.name.removeprefix(PREFIX): one.type.tensor_type
            for one in theirs.input
            if one.name not in constants
        }
        features = (*inputs.numbers, *inputs.strings)
        if set(shaped) == given and all(_rank(kind) == 2 for kind in shaped.values()):
            for name, kind in shaped.items():
                _check_type(name, kind.elem_type, text=name == "strings")
                _cast(graph, name, name, kind.elem_type)
        elif len(shaped) == 1 and set(shaped) - set(features):
            self._feed_matrix(graph, *shaped.items())
        else:
            self._feed_columns(graph, shaped, features)

    def _feed_matrix(self, graph: Graph, only: tuple[str, onnx.TypeProto.Tensor]) -> None:
        """A tensor [N, k] from all columns, which must be numbers."""
        (name, kind), inputs = only, self.signature.inputs
        if inputs.strings:
            raise Invalid(
                f"the graph takes one tensor of numbers, and {_listed(inputs.strings)} of the pipeline"
                f" {'is' if len(inputs.strings) == 1 else 'are'} none",
                where=name,
                remedy="Export with one named input a feature, or leave these features out",
            )
        _check_type(name, kind.elem_type, text=False)
        columns = _dimension(kind, 1)
        if _rank(kind) != 2 or columns not in (None, len(inputs.numbers)):
            raise Invalid(
                f"the input has shape {_shape(kind)}; the pipeline's {len(inputs.numbers)} features make"
                f" [N, {len(inputs.numbers)}]",
                where=name,
                remedy=f"Export a graph that takes {_listed(inputs.numbers)}, in this order",
            )
        _cast(graph, "numbers", name, kind.elem_type)

    def _feed_columns(
        self, graph: Graph, shaped: Mapping[str, onnx.TypeProto.Tensor], features: tuple[str, ...]
    ) -> None:
        """Inputs [N, 1] or [N], one a feature, by its name."""
        unknown, missing = sorted(set(shaped) - set(features)), sorted(set(features) - set(shaped))
        for wrong, sentence, remedy in (
            (
                unknown,
                "the graph takes {}, which the pipeline does not have",
                "Rename the inputs as features",
            ),
            (missing, "the graph does not take {} of the pipeline", "Leave them out of `features`"),
        ):
            if wrong:
                raise Invalid(sentence.format(_listed(wrong)), where=wrong[0], remedy=remedy)
        inputs = self.signature.inputs
        for name, kind in shaped.items():
            text = name in inputs.strings
            side, at = ("strings", inputs.strings) if text else ("numbers", inputs.numbers)
            _check_type(name, kind.elem_type, text=text)
            if _rank(kind) not in (1, 2) or _dimension(kind, 1) not in (None, 1):
                raise Invalid(
                    f"the input has shape {_shape(kind)}; one feature makes [N, 1] or [N]",
                    where=name,
                    remedy="Export it with one column",
                )
            found = graph.columns(side, [at.index(name)])
            if _rank(kind) == 1:
                found = graph.op("Reshape", found, graph.constant([-1], np.int64))
            _cast(graph, found, name, kind.elem_type)

    def _answer(self, graph: Graph) -> str:
        """The foreign graph's answer: probabilities [N, k] or a value [N, 1], FP32."""
        theirs = self._model.graph
        name = "value" if not self.signature.classes else "probabilities"
        found = [one for one in theirs.output if one.type.tensor_type.elem_type in _REALS]
        named = [one for one in found if one.name == PREFIX + name]
        if len(named or found) != 1:
            kinds = ", ".join(f"`{one.name.removeprefix(PREFIX)}`" for one in theirs.output)
            raise Invalid(
                f"of the outputs {kinds} none can be told to be the {name}: exactly one must be a tensor of"
                " FP32 or FP64",
                where=name,
                remedy=f"Name it `{name}`; from scikit-learn export with options={{'zipmap': False}}",
            )
        output = (named or found)[0]
        kind, columns = output.type.tensor_type, max(1, len(self.signature.classes))
        binary = len(self.signature.classes) == 2
        rank, width = _rank(kind), _dimension(kind, 1)
        one = rank == 1 or (rank == 2 and width == 1)
        if not (rank == 2 and width in (None, columns)) and not (one and (binary or columns == 1)):
            raise Invalid(
                f"the output has shape {_shape(kind)}; the pipeline's {name} make [N, {columns}]",
                where=output.name.removeprefix(PREFIX),
                remedy=f"One column a class, in the order {_listed(self.signature.classes)}"
                if self.signature.classes
                else "One value a row",
            )
        value = graph.op("Cast", output.name, to=TensorProto.FLOAT)
        if rank == 1:
            value = graph.op("Reshape", value, graph.constant([-1, 1], np.int64))
        if not (binary and one):
            return value
        rest = graph.op("Sub", graph.constant(1, np.float32), value)
        return graph.op("Concat", rest, value, axis=1)


def _cast(graph: Graph, value: str, name: str, kind: int) -> None:
    """Gives the foreign graph's input of that name the value, as its type."""
    graph.bind(value if kind == TensorProto.STRING else graph.op("Cast", value, to=kind), PREFIX + name)


def _check_type(name: str, kind: int, *, text: bool) -> None:
    allowed = (TensorProto.STRING,) if text else _REALS
    if kind not in allowed:
        wanted = "text (BYTES)" if text else "FP32 or FP64: a missing value is NaN"
        raise Invalid(
            f"the input takes {TensorProto.DataType.Name(kind)}; the pipeline gives {wanted}",
            where=name,
            remedy="Export it with that type",
        )


def _rank(kind: onnx.TypeProto.Tensor) -> int:
    return len(kind.shape.dim) if kind.HasField("shape") else -1


def _dimension(kind: onnx.TypeProto.Tensor, at: int) -> int | None:
    """The fixed size; None where it is open, or there is none."""
    if at >= _rank(kind) or not kind.shape.dim[at].HasField("dim_value"):
        return None
    return int(kind.shape.dim[at].dim_value)


def _shape(kind: onnx.TypeProto.Tensor) -> str:
    if not kind.HasField("shape"):
        return "[?]"
    sizes = (
        str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "N" for dim in kind.shape.dim
    )
    return f"[{', '.join(sizes)}]"


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
