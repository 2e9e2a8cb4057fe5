"""Nodes around a foreign graph: the pipeline's inputs in front of it, its answers and the decision
behind. They are of operators that every opset from 11 to 20 has alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from penstock.contracts.errors import Invalid
from penstock.modelkit.decision import ABSTAIN
from penstock.packages.parts import ModelSignature

PREFIX = "imported/"
_REALS = (TensorProto.FLOAT, TensorProto.DOUBLE)


class Adapted:
    """A foreign graph between adapters. `build` gives it with a decision, or without one."""

    def __init__(self, model: onnx.ModelProto, signature: ModelSignature) -> None:
        """Raises Invalid, with the input or output, where the graph does not fit the pipeline."""
        self.signature = signature
        self._model = compose.add_prefix(model, PREFIX)
        self._before: list[onnx.NodeProto] = []
        self._after: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._feed(self._model.graph)
        self._answer(self._model.graph)

    def build(
        self, threshold: float | None = None, abstain: tuple[float, float] | None = None
    ) -> onnx.ModelProto:
        """The whole graph. `threshold`: binary only."""
        made = onnx.ModelProto.FromString(self._model.SerializeToString())
        graph = made.graph
        constants, after = list(self._constants), list(self._after)
        if self.signature.classes:
            after += _decide(self.signature.classes, threshold, abstain, constants)
        nodes = [*self._before, *graph.node, *after]
        del graph.node[:], graph.input[:], graph.output[:]
        graph.node.extend(nodes)
        graph.initializer.extend(constants)
        inputs = self.signature.inputs
        sides = (
            ("numbers", TensorProto.DOUBLE, inputs.numbers),
            ("strings", TensorProto.STRING, inputs.strings),
        )
        graph.input.extend(
            helper.make_tensor_value_info(name, kind, ["N", len(columns)])
            for name, kind, columns in sides
            if columns
        )
        kinds = {"FP32": TensorProto.FLOAT, "BYTES": TensorProto.STRING}
        graph.output.extend(
            helper.make_tensor_value_info(name, kinds[output.datatype], ["N", output.columns])
            for name, output in self.signature.outputs.items()
        )
        onnx.checker.check_model(made)
        return made

    def _feed(self, graph: onnx.GraphProto) -> None:
        constants = {tensor.name for tensor in graph.initializer}
        wanted = {one.name.removeprefix(PREFIX): one for one in graph.input if one.name not in constants}
        inputs = self.signature.inputs
        features = (*inputs.numbers, *inputs.strings)
        shaped = {name: one.type.tensor_type for name, one in wanted.items()}
        sides = {"numbers": inputs.numbers, "strings": inputs.strings}
        if set(wanted) == {name for name, columns in sides.items() if columns} and all(
            _rank(kind) == 2 for kind in shaped.values()
        ):
            for name in wanted:
                _check_type(name, shaped[name].elem_type, text=name == "strings")
                self._cast(name, PREFIX + name, shaped[name].elem_type)
        elif len(wanted) == 1 and set(wanted) - set(features):
            self._feed_matrix(*shaped.items())
        else:
            self._feed_columns(shaped, features)

    def _feed_matrix(self, only: tuple[str, onnx.TypeProto.Tensor]) -> None:
        """One tensor [N, k] from all columns, which must be numbers."""
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
        self._cast("numbers", PREFIX + name, kind.elem_type)

    def _feed_columns(self, shaped: Mapping[str, onnx.TypeProto.Tensor], features: tuple[str, ...]) -> None:
        """One input [N, 1] or [N] a feature, by its name."""
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
            index = self._constant(f"column_{name}", np.array([at.index(name)], np.int64))
            self._node("Gather", [side, index], f"of_{name}", axis=1)
            found = f"of_{name}"
            if _rank(kind) == 1:
                flat = self._constant(f"flat_{name}", np.array([-1], np.int64))
                found = self._node("Reshape", [found, flat], f"flat_of_{name}")
            self._cast(found, PREFIX + name, kind.elem_type)

    def _cast(self, value: str, to: str, kind: int) -> None:
        if kind == TensorProto.STRING:
            self._node("Identity", [value], to)
        else:
            self._node("Cast", [value], to, to=kind)

    def _answer(self, graph: onnx.GraphProto) -> None:
        """Names the graph's answer `probabilities` [N, k] or `value` [N, 1], in FP32."""
        name = "value" if not self.signature.classes else "probabilities"
        found = [one for one in graph.output if one.type.tensor_type.elem_type in _REALS]
        named = [one for one in found if one.name == PREFIX + name]
        if len(named or found) != 1:
            kinds = ", ".join(f"`{one.name.removeprefix(PREFIX)}`" for one in graph.output)
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
        value = self._node("Cast", [output.name], "answer", after=True, to=TensorProto.FLOAT)
        if rank == 1:
            shape = self._constant("one_column", np.array([-1, 1], np.int64))
            value = self._node("Reshape", [value, shape], "answers", after=True)
        if binary and one:
            whole = self._constant("one", np.array(1, np.float32))
            rest = self._node("Sub", [whole, value], "rest", after=True)
            self._node("Concat", [rest, value], name, after=True, axis=1)
        else:
            self._node("Identity", [value], name, after=True)

    def _constant(self, name: str, value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        self._constants.append(numpy_helper.from_array(value, name))
        return name

    def _node(self, kind: str, inputs: list[str], output: str, *, after: bool = False, **said: Any) -> str:
        node = helper.make_node(kind, inputs, [output], name=f"adapter_{output}", **said)
        (self._after if after else self._before).append(node)
        return output


def _decide(
    classes: tuple[str, ...],
    threshold: float | None,
    abstain: tuple[float, float] | None,
    constants: list[onnx.TensorProto],
) -> list[onnx.NodeProto]:
    """Nodes from `probabilities` to `decision`, as `penstock.modelkit.decision` has them."""

    def constant(name: str, value: object, dtype: type) -> str:
        constants.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    constants.append(helper.make_tensor("classes", TensorProto.STRING, [len(classes)], _encoded(classes)))
    nodes = []

    def node(kind: str, *inputs: str, outputs: tuple[str, ...], **said: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, outputs, name=f"decide_{outputs[0]}", **said))
        return outputs[-1]

    if threshold is not None:
        weighed = node(
            "Gather", "probabilities", constant("second", [1], np.int64), outputs=("weighed",), axis=1
        )
        below = node("Less", weighed, constant("threshold", threshold, np.float32), outputs=("below",))
        chosen = node("Cast", node("Not", below, outputs=("reached",)), outputs=("chosen",), to=7)
    else:
        largest = constant("largest", [1], np.int64)
        chosen = node("TopK", "probabilities", largest, outputs=("weighed", "chosen"), axis=1)
    decided = "decision" if abstain is None else "decided"
    node("Gather", "classes", chosen, outputs=(decided,), axis=0)
    if abstain is not None:
        low, high = (constant(f"bound_{at}", bound, np.float32) for at, bound in enumerate(abstain))
        under = node("Less", "weighed", low, outputs=("under",))
        over = node("Greater", "weighed", high, outputs=("over",))
        sure = node("Or", under, over, outputs=("sure",))
        constants.append(helper.make_tensor("unsure", TensorProto.STRING, [1], _encoded((ABSTAIN,))))
        node("Where", sure, decided, "unsure", outputs=("decision",))
    return nodes


def _encoded(texts: tuple[str, ...]) -> list[Any]:
    return [text.encode() for text in texts]


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
