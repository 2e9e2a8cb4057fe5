"""Graphs that somebody might bring: a good one of two numbers, and one for each defect with a pattern
of the sentence that refuses it.
"""

from __future__ import annotations

from typing import Any

from onnx import ModelProto, TensorProto, helper

F, D = TensorProto.FLOAT, TensorProto.DOUBLE


def tensor(name: str, shape: list[Any], kind: int = F) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def graph(
    nodes: list[Any],
    inputs: list[Any] | None = None,
    outputs: list[Any] | None = None,
    constants: list[Any] | None = None,
    opset: int = 17,
    ir: int = 8,
    domains: tuple[str, ...] = (),
) -> bytes:
    made = helper.make_graph(
        nodes,
        "brought",
        inputs or [tensor("x", ["N", 2])],
        outputs or [tensor("p", ["N", 1])],
        constants or [helper.make_tensor("w", F, [2, 1], [2.0, -1.0])],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 3) for name in domains)]
    model: ModelProto = helper.make_model(made, opset_imports=opsets, ir_version=ir)
    return model.SerializeToString()


def node(kind: str, inputs: str, output: str, **said: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], **said)


LOGIT = node("MatMul", "x w", "z")
GOOD = [LOGIT, node("Sigmoid", "z", "p")]


def _external() -> bytes:
    weight = helper.make_tensor("w", F, [2, 1], [0.0, 0.0])
    weight.ClearField("float_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../../etc/passwd")
    return graph(GOOD, constants=[weight])


def _loop() -> bytes:
    body = helper.make_graph(
        [node("Identity", "c", "c_out"), node("Identity", "v", "v_out")],
        "body",
        [tensor("i", [], TensorProto.INT64), tensor("c", [], TensorProto.BOOL), tensor("v", None)],  # type: ignore[arg-type]
        [tensor("c_out", [], TensorProto.BOOL), tensor("v_out", None)],  # type: ignore[arg-type]
    )
    forever = helper.make_node("Loop", ["", "yes", "z"], ["q"], body=body)
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    weight = helper.make_tensor("w", F, [2, 1], [2.0, -1.0])
    return graph([LOGIT, forever, node("Sigmoid", "q", "p")], constants=[weight, yes])


def slow() -> bytes:
    nodes = [LOGIT, node("ConstantOfShape", "side", "m0")]
    nodes += [node("MatMul", f"m{at} m{at}", f"m{at + 1}") for at in range(40)]
    nodes += [
        node("ReduceMax", "m40", "m", keepdims=0),
        node("Add", "z m", "q"),
        node("Sigmoid", "q", "p"),
    ]
    weight = helper.make_tensor("w", F, [2, 1], [2.0, -1.0])
    return graph(nodes, constants=[weight, helper.make_tensor("side", TensorProto.INT64, [2], [3000, 3000])])


def huge() -> bytes:
    weight = helper.make_tensor("w", F, [2, 1], [2.0, -1.0])
    side = helper.make_tensor("side", TensorProto.INT64, [2], [1, 25_000_000_000])
    nodes = [
        LOGIT,
        node("ConstantOfShape", "side", "m"),
        node("ReduceMax", "m", "most", keepdims=0),
        node("Add", "z most", "q"),
        node("Sigmoid", "q", "p"),
    ]
    return graph(nodes, constants=[weight, side])


def branches(*nodes: Any) -> bytes:
    """Sigmoid by way of an If, whose branches hold these nodes from `z` to `q`."""
    one, other = (
        helper.make_graph(
            [*nodes, node("Identity", "q", f"q{at}")], f"branch{at}", [], [tensor(f"q{at}", ["N", 1])]
        )
        for at in range(2)
    )
    way = helper.make_node("If", ["yes"], ["chosen"], then_branch=one, else_branch=other)
    constants = [
        helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
        helper.make_tensor("w", F, [2, 1], [2.0, -1.0]),
    ]
    domains = tuple({each.domain for each in nodes if each.domain})
    return graph([LOGIT, way, node("Sigmoid", "chosen", "p")], constants=constants, domains=domains)


def _external_in_a_branch() -> bytes:
    """A sparse constant of a branch in another file."""
    values, at = (helper.make_tensor(*said) for said in (("s", F, [1], [1.0]), ("i", 7, [1], [0])))
    values.ClearField("float_data")
    values.data_location = TensorProto.EXTERNAL
    values.external_data.add(key="location", value="secret")
    there, not_there = (
        helper.make_graph([one], "branch", [], [tensor("o", ["N", 1])])
        for one in (node("Add", "z s", "o"), node("Identity", "z", "o"))
    )
    there.sparse_initializer.append(helper.make_sparse_tensor(values, at, [1]))
    chosen = helper.make_node("If", ["no"], ["q"], then_branch=there, else_branch=not_there)
    no = helper.make_tensor("no", TensorProto.BOOL, [], [False])
    weight = helper.make_tensor("w", F, [2, 1], [2.0, -1.0])
    return graph([LOGIT, chosen, node("Sigmoid", "q", "p")], constants=[weight, no])


def _function() -> bytes:
    """An operator that its name says is standard, and does something else."""
    model = ModelProto.FromString(graph([LOGIT, node("Selu", "z", "q"), node("Sigmoid", "q", "p")]))
    opset = [helper.make_opsetid("", 17)]
    body = [node("Identity", "a", "b")]
    model.functions.append(helper.make_function("", "Selu", ["a"], ["b"], body, opset))
    return model.SerializeToString()


DEFECTS: dict[str, tuple[bytes, str]] = {
    "no ONNX": (b"PK\3\4 a zip archive, say", "this is no ONNX model"),
    "cut off": (graph(GOOD)[:-40], "this is no ONNX model|cut off|not valid ONNX"),
    "custom operator": (
        graph([LOGIT, node("Gelu", "z", "p", domain="com.microsoft")], domains=("com.microsoft",)),
        "com.microsoft.Gelu is no standard one",
    ),
    "opens a file by an operator": (
        graph(
            [node("EPContext", "x", "p", domain="com.microsoft", ep_cache_context="/etc/passwd")],
            domains=("com.microsoft",),
        ),
        "com.microsoft.EPContext is no standard one",
    ),
    "external data": (_external(), r"lies in another file, '../../../etc/passwd': no file is opened"),
    "opset": (graph(GOOD, opset=21), "uses opset 21 of ai.onnx; 11 to 20 are served"),
    "IR": (graph(GOOD, ir=10), "IR version 10; up to 9"),
    "input unknown": (
        graph(GOOD, [tensor("x", ["N", 2]), tensor("other", ["N", 1])]),
        "takes `other`, `x`, which the pipeline does not have",
    ),
    "input missing": (
        graph([node("Sigmoid", "a", "p")], [tensor("a", ["N", 1])]),
        "does not take `b` of the pipeline",
    ),
    "input type": (
        graph(
            [node("Cast", "x", "y", to=F), node("MatMul", "y w", "z"), GOOD[1]],
            [tensor("x", ["N", 2], TensorProto.INT64)],
        ),
        "the input takes INT64; the pipeline gives FP32 or FP64",
    ),
    "input rank": (
        graph(GOOD, [tensor("x", ["N", 1, 2])], [tensor("p", ["N", 1, 1])]),
        r"the input has shape \[N, 1, 2\]",
    ),
    "output shape": (
        graph([node("Concat", "x x", "p", axis=1)], outputs=[tensor("p", ["N", 4])]),
        r"the output has shape \[N, 4\]",
    ),
    "rows": (
        graph(
            [LOGIT, node("Sigmoid", "z", "q"), node("ReduceMean", "q", "p", axes=[0], keepdims=1)],
            outputs=[tensor("p", ["M", 1])],
        ),
        r"40 rows are answered with shape \[1, 2\]",
    ),
    "no probabilities": (
        graph([LOGIT, node("Identity", "z", "p")]),
        "the answers are no probabilities: they lie between",
    ),
    "no numbers": (
        graph([LOGIT, node("Sqrt", "z", "q"), node("Sigmoid", "q", "p")]),
        r"the answer is no number for \d+ of 40 rows",
    ),
    "a loop": (_loop(), "the graph has a Loop: nobody can say how long it takes"),
    "a loop in a branch": (
        branches(
            helper.make_node(
                "Scan",
                ["z"],
                ["q"],
                num_scan_inputs=1,
                body=helper.make_graph(
                    [node("Identity", "s", "t")], "step", [tensor("s", [1])], [tensor("t", [1])]
                ),
            )
        ),
        "the graph has a Scan: nobody can say how long it takes",
    ),
    "custom operator in a branch": (
        branches(node("Gelu", "z", "q", domain="com.microsoft")),
        "com.microsoft.Gelu is no standard one",
    ),
    "external data in a branch": (
        _external_in_a_branch(),
        "the tensor `s` lies in another file, 'secret'",
    ),
    "functions": (_function(), "the graph has functions of its own"),
    "text as an answer": (
        graph(
            [node("Cast", "x", "p", to=TensorProto.STRING)],
            outputs=[tensor("p", ["N", 2], TensorProto.STRING)],
        ),
        "exactly one must be a tensor of FP32 or FP64",
    ),
    "two answers": (
        graph([*GOOD, node("Neg", "p", "q")], outputs=[tensor("p", ["N", 1]), tensor("q", ["N", 1])]),
        "of the outputs `p`, `q` none can be told to be the probabilities",
    ),
    "fails on rows": (
        graph(
            [LOGIT, node("Reshape", "z five", "y"), node("Sigmoid", "y", "p")],
            constants=[
                helper.make_tensor("w", F, [2, 1], [2.0, -1.0]),
                helper.make_tensor("five", TensorProto.INT64, [2], [5, 1]),
            ],
        ),
        "the graph fails on rows of the pipeline: ",
    ),
    "fails on odd rows": (
        graph(  # looks up a number's place in a table
            [
                LOGIT,
                node("Cast", "x", "places", to=TensorProto.INT64),
                node("Gather", "places first", "place", axis=1),
                node("Gather", "table place", "known"),
                node("Add", "z known", "q"),
                node("Sigmoid", "q", "p"),
            ],
            constants=[
                helper.make_tensor("w", F, [2, 1], [2.0, -1.0]),
                helper.make_tensor("first", TensorProto.INT64, [1], [0]),
                helper.make_tensor("table", F, [100], [0.0] * 100),
            ],
        ),
        "the graph fails on rows of 0, ±1e",
    ),
    "chance": (
        graph(
            [LOGIT, node("RandomUniformLike", "z", "r"), node("Add", "z r", "q"), node("Sigmoid", "q", "p")]
        ),
        "answers the same rows differently",
    ),
    "neighbours": (
        graph(
            [
                LOGIT,
                node("ReduceMean", "z", "m", axes=[0], keepdims=1),
                node("Sub", "z m", "q"),
                node("Sigmoid", "q", "p"),
            ]
        ),
        "a row's answer depends on the rows beside it",
    ),
}
