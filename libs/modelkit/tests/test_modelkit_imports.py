"""A model that somebody brings: what is taken, and the sentence for each defect."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Decision
from penstock.modelkit.graph import Runner
from penstock.modelkit.imports import checks, confined
from penstock.modelkit.imports.confined import adopt, order_of
from penstock.modelkit.rows import Rows
from penstock.packages.parts import Inputs, ModelSignature, Output, TargetSignature

pytestmark = pytest.mark.process

F, D = TensorProto.FLOAT, TensorProto.DOUBLE
N = 40
DECISION = Decision()


def signature(numbers: tuple[str, ...] = ("a", "b"), strings: tuple[str, ...] = ()) -> ModelSignature:
    return ModelSignature(
        inputs=Inputs(numbers=numbers, strings=strings),
        outputs={
            "probabilities": Output(datatype="FP32", columns=2),
            "decision": Output(datatype="BYTES", columns=1),
        },
        classes=("false", "true"),
        target=TargetSignature(name="y", type="binary"),
    )


def rows(named: ModelSignature, count: int = N) -> Rows:
    random = np.random.default_rng(1)
    numbers = random.normal(size=(count, len(named.inputs.numbers)))
    strings = random.choice(["car", "home", ""], (count, len(named.inputs.strings))).astype(object)
    return Rows(numbers, strings, (numbers[:, 0] > 0).astype(np.int64), {})


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


def examined(content: bytes, named: ModelSignature | None = None) -> dict[str, Any]:
    """As `given`, in this process, which costs no seconds."""
    named = named or signature()
    return confined.examine(order_of(content, named, rows(named), rows(named, 3), DECISION))


LOGIT = node("MatMul", "x w", "z")
GOOD = [LOGIT, node("Sigmoid", "z", "p")]


def given(content: bytes, named: ModelSignature | None = None, **limits: Any) -> dict[str, Any]:
    named = named or signature()
    return adopt(content, named, rows(named), rows(named, 3), DECISION, **limits)


def test_one_tensor_becomes_the_pipelines_inputs_and_gets_a_decision() -> None:
    named, content = signature(), graph(GOOD)
    found = given(content)
    some = rows(named)
    expected = 1 / (1 + np.exp(-(some.numbers.astype(np.float32) @ np.array([[2.0], [-1.0]], np.float32))))
    assert np.abs(found["rows.probabilities"][:, 1:] - expected).max() < 1e-6
    threshold = float(found["threshold"][0])
    decided = np.where(found["rows.probabilities"][:, 1] >= np.float32(threshold), "true", "false")
    assert (found["rows.decision"][:, 0] == decided).all()
    again = Runner(found["model"].tobytes())(some.numbers, some.strings)
    assert (again["probabilities"] == found["rows.probabilities"]).all()
    assert examined(content)["model"].tobytes() == found["model"].tobytes(), "the same file, the same bytes"


def test_named_inputs_and_both_probabilities() -> None:
    """As converters of scikit-learn's pipelines give them: a column an input, text among them."""
    named = signature(("a",), ("word",))
    inputs = [tensor("word", ["N", 1], TensorProto.STRING), tensor("a", ["N"], D)]
    codes = helper.make_node(
        "LabelEncoder",
        ["word"],
        ["code"],
        domain="ai.onnx.ml",
        keys_strings=["car"],
        values_floats=[1.0],
        default_float=-1.0,
    )
    nodes = [
        codes,
        node("Cast", "a", "af", to=F),
        node("Reshape", "af column", "ac"),
        node("Add", "ac code", "z"),
        node("Neg", "z", "n"),
        node("Concat", "n z", "both", axis=1),
        node("Softmax", "both", "probabilities", axis=1),
        node("ArgMax", "both", "label", axis=1),
    ]
    outputs = [tensor("label", ["N", 1], TensorProto.INT64), tensor("probabilities", ["N", 2])]
    constants = [helper.make_tensor("column", TensorProto.INT64, [2], [-1, 1])]
    content = graph(nodes, inputs, outputs, constants, domains=("ai.onnx.ml",))
    some = rows(named)
    z = some.numbers[:, 0] + np.where(some.strings[:, 0] == "car", 1.0, -1.0)
    found = examined(content, named)
    assert np.abs(found["rows.probabilities"][:, 1] - 1 / (1 + np.exp(-2 * z))).max() < 1e-6


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


def _branch() -> bytes:
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


def _slow() -> bytes:
    nodes = [LOGIT, node("ConstantOfShape", "side", "m0")]
    nodes += [node("MatMul", f"m{at} m{at}", f"m{at + 1}") for at in range(40)]
    nodes += [
        node("ReduceMax", "m40", "m", keepdims=0),
        node("Add", "z m", "q"),
        node("Sigmoid", "q", "p"),
    ]
    weight = helper.make_tensor("w", F, [2, 1], [2.0, -1.0])
    return graph(nodes, constants=[weight, helper.make_tensor("side", TensorProto.INT64, [2], [3000, 3000])])


def _huge() -> bytes:
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
    "external data in a branch": (_branch(), "the tensor `s` lies in another file, 'secret'"),
    "functions": (_function(), "the graph has functions of its own"),
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


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_is_a_sentence_with_what_to_do(defect: str) -> None:
    content, sentence = DEFECTS[defect]
    with pytest.raises(Invalid, match=sentence) as refused:
        examined(content)
    assert refused.value.remedy


def test_what_takes_too_long_is_ended() -> None:
    with pytest.raises(Invalid, match="does not answer within 1 s"):
        given(_slow(), seconds=1)


def test_what_wants_too_much_memory_does_not_get_it() -> None:
    with pytest.raises(Invalid, match="wants more memory than an import may have"):
        given(_huge())


def test_a_file_beyond_the_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MAX_BYTES", 100)
    with pytest.raises(Invalid, match="at most 100 are taken"):
        checks.parse(graph(GOOD))


def test_text_has_no_place_in_a_tensor_of_numbers() -> None:
    with pytest.raises(Invalid, match="`word` of the pipeline is none"):
        examined(graph(GOOD), signature(("a", "b"), ("word",)))


@pytest.mark.parametrize(
    "attempt",
    [
        "open('/etc/passwd')",
        "open('/tmp/written', 'w')",
        "b'x' * (1 << 30)",
        "os.execv('/bin/true', ['x'])",
    ],
)
def test_the_confined_process_has_given_up(attempt: str) -> None:
    """Should ONNX Runtime itself be led astray, there is nothing to be had."""
    code = f"import os; from {confined.__name__} import confine; confine(5, 100 << 20); {attempt}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0, attempt


def test_a_process_that_dies_is_a_refusal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dies = tmp_path / "python"
    dies.write_text("#!/bin/sh\nexit 3\n")
    dies.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dies))
    with pytest.raises(Invalid, match=r"ends the process that runs it \(exit 3\)"):
        given(graph(GOOD))
