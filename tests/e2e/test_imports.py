"""A model made elsewhere, from `penstock import` to a served and audited version."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from census import Served, asking, declared, pipeline_text, run_penstock
from onnx import TensorProto, helper

from penstock.contracts.digests import digest_of
from penstock.contracts.pipeline import Pipeline
from penstock.testing.stack import StackUnderTest

pytestmark = pytest.mark.stack

NAME = "census-brought"
GATES = "[{metric: auroc, at_least: 0.6, on_fail: block}]"
UNKNOWN = "not known whether it was trained on the audit rows"


def node(kind: str, inputs: str, output: str, **said: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], **said)


MARRIED = {"keys_strings": ["Married-civ-spouse"], "values_floats": [2.0], "default_float": 0.0}
LINE = [
    node("IsNaN", "education_years", "unknown"),
    node("Where", "unknown middle education_years", "years"),
    node("Sub", "years middle", "beyond"),
    node("Mul", "beyond slope", "school"),
    node("LabelEncoder", "marital_status", "home", domain="ai.onnx.ml", **MARRIED),
    node("Add", "school home", "sum"),
    node("Sub", "sum offset", "logit"),
]
LOGISTIC = [*LINE, node("Sigmoid", "logit", "answer")]
LINEAR = [*LINE, node("Add", "logit hours", "answer")]


def graph(pipeline: Pipeline, nodes: list[Any]) -> bytes:
    """More years of school and being married count; all other features are looked at by nobody."""
    kinds = {
        name: pipeline.field(one.source_field).type for name, one in pipeline.resolved_features().items()
    }
    inputs = [
        helper.make_tensor_value_info(
            name, TensorProto.FLOAT if kind == "number" else TensorProto.STRING, ["N", 1]
        )
        for name, kind in kinds.items()
    ]
    values = {"middle": 10.0, "slope": 0.35, "offset": 2.0, "hours": 42.0}
    constants = [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in values.items()]
    outputs = [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["N", 1])]
    made = helper.make_graph(nodes, "theirs", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    content: bytes = helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString()
    return content


def line(event: Mapping[str, object]) -> float:
    married = 2.0 * (event.get("marital_status") == "Married-civ-spouse")
    return 0.35 * (float(str(event["education_years"])) - 10) + married - 2


def test_a_model_made_elsewhere_is_audited_served_and_says_so(
    served: Served, stack: StackUnderTest, tmp_path: Path
) -> None:
    client = served.client
    client.pipelines.apply(pipeline_text(NAME, gates=GATES, compare="none"), by="test")
    served.journey.publish(NAME, "people", served.events[:2_000])
    path = tmp_path / "theirs.onnx"
    path.write_bytes(graph(client.pipelines.spec(NAME), LOGISTIC))
    done = run_penstock(stack, "import", NAME, str(path), "--wait", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads(done.stdout)
    digest = outcome["version"]["digest"]
    assert outcome["audit"]["verdict"] == "pass"
    assert client.audits.verify(digest).valid
    event = served.events[7]
    answer = client.predictions.by_fields(NAME, asking.model_fields(client.pipelines.spec(NAME), event))
    logit = line(event)
    assert answer.probabilities["true"] == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-6)
    assert answer.digest == digest
    origin = json.loads(client.audits.report(digest, format="json"))["origin"]
    assert origin["audit_rows"] == UNKNOWN
    assert origin["original_digest"] == digest_of(path.read_bytes())
    page = client.audits.report(digest).decode()
    assert UNKNOWN in page
    assert "never trained on" not in page
    assert "theirs.onnx" in run_penstock(stack, "models", NAME).stdout
    traced = run_penstock(stack, "trace", f"{NAME}@{digest.removeprefix('sha256:')[:12]}").stdout
    assert "imported by" in traced


def test_so_is_one_that_foretells_a_number(served: Served, stack: StackUnderTest, tmp_path: Path) -> None:
    client, name = served.client, "census-brought-hours"
    target = {"from": "people.hours_per_week", "type": "regression"}
    audit = {"gates": [{"metric": "rmse", "at_most": 20}]}
    client.pipelines.apply(declared(name, target, audit=audit), by="test")
    served.journey.publish(name, "people", served.events[:2_000])
    path = tmp_path / "hours.onnx"
    path.write_bytes(graph(client.pipelines.spec(name), LINEAR))
    done = run_penstock(stack, "import", name, str(path), "--wait", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["audit"]["verdict"] == "pass"
    event, fields = served.events[7], asking.model_fields(client.pipelines.spec(name), served.events[7])
    served.journey.until_served(name, outcome["version"]["digest"])
    answer = client.predictions.by_fields(name, fields)
    assert answer.value == pytest.approx(42 + line(event), abs=1e-5)
    assert answer.digest == outcome["version"]["digest"]
    assert json.loads(client.audits.report(answer.digest, format="json"))["origin"]["audit_rows"] == UNKNOWN
