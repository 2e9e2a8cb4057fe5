"""A model that somebody brings: what is taken, and the sentence for each defect."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_graphs import DEFECTS, GOOD, D, F, branches, graph, huge, node, slow, tensor
from onnx import TensorProto, helper

from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Decision
from penstock.modelkit import stored
from penstock.modelkit.graph import Runner
from penstock.modelkit.imports import build as imports
from penstock.modelkit.imports import checks, confined
from penstock.modelkit.imports.confined import adopt, order_of
from penstock.modelkit.rows import Rows
from penstock.packages.parts import Inputs, ModelSignature, Output, TargetSignature

pytestmark = pytest.mark.process

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


def examined(content: bytes, named: ModelSignature | None = None) -> dict[str, Any]:
    """As `given`, in this process, which costs no seconds."""
    named = named or signature()
    return confined.examine(order_of(content, named, rows(named), rows(named, 3), DECISION))


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


@pytest.mark.parametrize("opset", [11, 12, 13, 18, 20])
def test_every_opset_that_is_taken_gets_a_decision(opset: int) -> None:
    named, abstaining = signature(), Decision(abstain=(0.4, 0.6))
    order = order_of(graph(GOOD, opset=opset), named, rows(named), rows(named, 3), abstaining)
    found = confined.examine(order)
    chance, threshold = found["rows.probabilities"][:, 1], float(found["threshold"][0])
    decided = np.where(chance >= np.float32(threshold), "true", "false")
    unsure = (chance >= np.float32(0.4)) & (chance <= np.float32(0.6))
    assert unsure.any()
    assert (found["rows.decision"][:, 0] == np.where(unsure, "abstain", decided)).all()


@pytest.mark.parametrize("opset", [11, 20])
def test_the_likeliest_of_many_is_decided(opset: int) -> None:
    named = signature().model_copy(
        update={
            "classes": ("a", "b", "c"),
            "outputs": {
                "probabilities": Output(datatype="FP32", columns=3),
                "decision": Output(datatype="BYTES", columns=1),
            },
            "target": TargetSignature(name="y", type="multiclass"),
        }
    )
    weights = helper.make_tensor("w", F, [2, 3], [1.0, -1.0, 0.5, -2.0, 1.0, 0.0])
    nodes = [node("MatMul", "x w", "z"), node("Softmax", "z", "p", axis=1)]
    found = examined(graph(nodes, outputs=[tensor("p", ["N", 3])], constants=[weights], opset=opset), named)
    likeliest = np.array(named.classes)[found["rows.probabilities"].argmax(axis=1)]
    assert (found["rows.decision"][:, 0] == likeliest).all()
    assert len(set(likeliest)) == 3


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


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_is_a_sentence_with_what_to_do(defect: str) -> None:
    content, sentence = DEFECTS[defect]
    with pytest.raises(Invalid, match=sentence) as refused:
        examined(content)
    assert refused.value.remedy


def test_measures_of_some_rows_are_said_to_be(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a part that is too large to hold."""

    def adopted(_: bytes, __: ModelSignature, *asked: Any) -> dict[str, Any]:
        found: dict[str, Any] = {"model": np.zeros(3, np.uint8), "threshold": np.array([0.5])}
        for part, given in zip(("rows", "probes"), asked, strict=False):
            found[f"{part}.probabilities"] = np.full((len(given), 2), 0.5, np.float32)
            found[f"{part}.decision"] = np.full((len(given), 1), "true", object)
        return found

    random = np.random.default_rng(2)
    files = [
        world.part(name, dict(zip("ab", random.normal(size=(2, count)), strict=True)), [0, 1] * (count // 2))
        for name, count in (("train", 60), ("validation", 40))
    ]
    pipeline = world.pipeline(dict.fromkeys("ab", "number"), {"a": {}, "b": {}})
    monkeypatch.setattr(imports, "adopt", adopted)
    built = imports.build_imported(pipeline, graph(GOOD), *files, name="a.onnx")
    assert (built.sampled, built.judged) == (None, None)
    monkeypatch.setattr(stored, "HELD", 0)
    monkeypatch.setattr(stored, "SAMPLE", 30 * 2 * stored.NUMBER)
    built = imports.build_imported(pipeline, graph(GOOD), *files, name="a.onnx")
    assert (built.sampled, built.judged) == (30, 30)


def test_branches_are_taken() -> None:
    content = branches(node("Neg", "z", "q"))
    found = examined(content)["rows.probabilities"][:, 1]
    assert np.abs(found + examined(graph(GOOD))["rows.probabilities"][:, 1] - 1).max() < 1e-6


def test_what_takes_too_long_is_ended() -> None:
    with pytest.raises(Invalid, match="does not answer within 1 s"):
        given(slow(), seconds=1)


def test_what_wants_too_much_memory_does_not_get_it() -> None:
    with pytest.raises(Invalid, match="wants more memory than an import may have"):
        given(huge())


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
