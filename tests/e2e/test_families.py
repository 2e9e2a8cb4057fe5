"""Every family, from events to a served, audited version."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from census import Served, asking, declared, pipeline_text, run_penstock

from penstock.contracts.pipeline import Pipeline
from penstock.contracts.pipeline.variants import section_at
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.testing.stack import StackUnderTest

pytestmark = pytest.mark.stack

NAME, EACH = "census-trees", "census-families"
ROWS = 2_000
SECTION = section_at(Pipeline, ["model"])
assert SECTION is not None
TYPES = list(SECTION.types())
SMALL: dict[str, dict[str, Any]] = {
    "wide_deep": {"crosses": [["education", "occupation"]]},
    "ft_transformer": {"d": 16, "blocks": 1, "heads": 2},
    "tabm": {"k": 4, "hidden": [32]},
}
QUICK = {name: {"trainer.optimizer.learning_rate": 0.01} for name in ("linear", "ft_transformer")}


def trees_text() -> str:
    """The session's pipeline with boosted trees, which more years of school never speak against."""
    text = pipeline_text(NAME, compare="none")
    start, end = text.index("model:"), text.index("audit:\n")
    model = "model: {type: boosted_trees, monotone: {education_years: increasing}}\ntrainer: {epochs: 8}\n\n"
    return text[:start] + model + text[end:]


def test_boosted_trees_go_from_events_to_a_served_and_audited_version(served: Served) -> None:
    client = served.client
    client.pipelines.apply(trees_text(), by="test")
    served.journey.publish(NAME, "people", served.events[:ROWS])
    version = served.journey.train(NAME)
    assert version.state == registry.Version.STATE_PROMOTED, version.because
    assert client.audits.get(version.digest).verdict == "pass"
    assert version.metrics["auroc"] > 0.8  # of 200 rows
    served.journey.until_served(NAME, version.digest)
    asked = [
        asking.model_fields(client.pipelines.spec(NAME), served.events[7] | {"education_years": years})
        for years in range(1, 17, 3)
    ]
    chances = [client.predictions.by_fields(NAME, fields).probabilities["true"] for fields in asked]
    assert np.diff(chances).min() >= -1e-6
    assert max(chances) > min(chances)


@pytest.fixture(scope="module")
def each(served: Served) -> Served:
    """A pipeline with events, whose family each run says itself."""
    text = pipeline_text(EACH, compare="none", gates="[{metric: brier, at_most: 0.5, on_fail: block}]")
    start, end = text.index("model:"), text.index("audit:\n")
    served.client.pipelines.apply(text[:start] + "trainer: {epochs: 4}\n\n" + text[end:], by="test")
    served.journey.publish(EACH, "people", served.events[:ROWS])
    return served


@pytest.mark.parametrize("name", [name for name in TYPES if name != "boosted_trees"])
def test_a_family_goes_from_events_to_a_served_and_audited_version(each: Served, name: str) -> None:
    version = each.journey.train(
        EACH, {"model": {"type": name, **SMALL.get(name, {})}, **QUICK.get(name, {})}
    )
    assert version.state == registry.Version.STATE_PROMOTED, version.because
    assert each.client.audits.get(version.digest).verdict == "pass"
    assert version.metrics["auroc"] > (0.5 if name == "autoencoder" else 0.65)
    each.journey.until_served(EACH, version.digest)
    fields = asking.model_fields(each.client.pipelines.spec(EACH), each.events[7])
    chances = each.client.predictions.by_fields(EACH, fields).probabilities
    assert sum(chances.values()) == pytest.approx(1)
    assert 0 < chances["true"] < 1


def test_texts_weights_and_an_interval_go_to_a_served_and_audited_version(
    served: Served, stack: StackUnderTest
) -> None:
    """Of a file that names no family: texts are for none that would come first."""
    client, name = served.client, "census-hours"
    target = {"from": "people.hours_per_week", "type": "regression", "quantiles": [0.1, 0.9]}
    texts = {"occupation": "text_cnn", "workclass": "text_average"}
    features = {
        field: {"from": f"people.{field}", **({"encode": texts[field]} if field in texts else {})}
        for field in ("age", "education", "capital_gain", *texts)
    }
    file = json.loads(declared(name, target, features=features, trainer={"epochs": 3}))
    for field in texts:
        file["sources"]["people"]["fields"][field] = {"type": "text", "max_length": 100}
    file["training"]["sample_weight"] = "people.education_years"
    file["audit"]["gates"] = [{"metric": "coverage", "at_least": 0.5}]
    client.pipelines.apply(json.dumps(file), by="test")
    served.journey.publish(name, "people", served.events[:ROWS])
    version = served.journey.train(name)
    assert version.state == registry.Version.STATE_PROMOTED, version.because
    served.journey.until_served(name, version.digest)
    fields = asking.model_fields(client.pipelines.spec(name), served.events[7])
    found = client.predictions.by_fields(name, fields)
    assert 0 < found.interval.lower < found.interval.upper < 100
    page = " ".join(client.audits.report(version.digest).decode().split())
    assert "Training weighed rows by <code>people.education_years</code>" in page
    assert "<dt>Cost of the audit</dt>" in page
    passed = "`boosted_trees` would come first and does not take `features.occupation`"
    for told in ("runs", "--pipeline", name), ("trace", version.run_id):
        said = " ".join(run_penstock(stack, *told).stdout.split())
        assert "model.type mlp" in said, said
        assert passed in said, said


def test_classes_without_a_named_family_are_chosen_by_the_rows(served: Served) -> None:
    name = "census-relations"
    target = {"from": "people.relationship", "type": "multiclass"}
    audit = {"gates": [{"metric": "accuracy", "at_least": 0.4}]}
    served.client.pipelines.apply(declared(name, target, trainer={"epochs": 3}, audit=audit), by="test")
    served.journey.publish(name, "people", served.events[:ROWS])
    version = served.journey.train(name)
    assert version.state == registry.Version.STATE_PROMOTED, version.because
    run = served.client.runs.get(version.run_id)
    assert json.loads(run.chosen_json)["model.type"] == "boosted_trees"
    rows = json.loads(run.training_set_json)["rows"]["train"]
    assert run.chosen_because == f"the file names no family, and there are {rows:,} rows to train on"
    served.journey.until_served(name, version.digest)
    fields = asking.model_fields(served.client.pipelines.spec(name), served.events[7])
    chances = served.client.predictions.by_fields(name, fields).probabilities
    assert sum(chances.values()) == pytest.approx(1)
    assert len(chances) == 6
