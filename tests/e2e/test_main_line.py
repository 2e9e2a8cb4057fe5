"""What a user is promised from end to end, on the real stack and real census records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from census import (
    PIPELINE,
    Served,
    Succession,
    asking,
    deployment,
    infer,
    model_fields,
    pipeline_text,
    run_penstock,
    tensors,
)

from penstock.contracts.digests import short_digest
from penstock.contracts.errors import PenstockError
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.packages.archive import unpack
from penstock.testing.stack import StackUnderTest
from penstock.testing.wait import until

pytestmark = pytest.mark.stack


def test_every_event_is_a_record_a_reject_or_a_duplicate(served: Served) -> None:
    counts = served.client.events.counts(PIPELINE, "people")
    rejects = {reason: count for reason, count in served.expected.items() if reason != "duplicate"}
    assert (counts.records, counts.duplicates, dict(counts.rejects)) == (
        len(served.events),
        served.expected["duplicate"],
        rejects,
    )
    assert counts.events == counts.records + counts.duplicates + sum(rejects.values())
    told = [reject for _, reject in served.client.events.rejects(PIPELINE)]
    assert len(told) == sum(rejects.values())
    assert all(reject["detail"] and reject["digest"] for reject in told)


def test_the_training_set_holds_each_record_once(served: Served) -> None:
    training_set = json.loads(served.version.version_json)["training_set"]
    assert sum(training_set["rows"].values()) == len(served.events)
    topics = {f"{PIPELINE}.people.events.v1"}
    assert {offsets["topic"] for offsets in training_set["offsets"]} == topics


def test_the_version_is_promoted_on_signed_evidence(served: Served) -> None:
    assert served.version.state == registry.Version.STATE_PROMOTED
    assert served.client.audits.get(served.version.digest).verdict == "pass"
    verified = served.client.audits.verify(served.version.digest)
    assert verified.valid, verified.checks
    assert len(verified.checks) >= 4


def test_run_and_audit_state_what_they_cost(served: Served, stack: StackUnderTest) -> None:
    run = served.client.runs.get(served.version.run_id)
    audited = served.client.audits.get(served.version.digest)
    version = json.loads(served.version.version_json)
    assert version["cost"]["processor_s"] == run.cost.processor_s > 0.1  # of epochs and packaging
    assert run.cost.peak_memory > 100_000_000  # torch alone takes more
    assert audited.cost.processor_s > 0.2
    assert run.cost.gpu_s == audited.cost.gpu_s == 0
    months = json.loads(run_penstock(stack, "costs", PIPELINE, "--json").stdout)
    for work, cost in (("training", run.cost), ("audits", audited.cost)):
        sums = [month["cost"]["processor_s"] for month in months[work]]
        assert sum(sums) >= cost.processor_s


def test_four_ways_to_ask_give_one_answer(served: Served) -> None:
    event = served.events[7]
    numbers, strings = tensors(served, [event])
    by_triton = infer(served, numbers, strings)[0, 1]
    by_http, prediction = asking.over_http(served.client.settings.endpoint, PIPELINE, numbers, strings)
    assert prediction
    by_entity = served.client.predictions.by_entity(PIPELINE, str(event["person_id"]))
    by_fields = served.client.predictions.by_fields(PIPELINE, model_fields(served, event))
    answers = [by_triton, by_http[0, 1], by_entity.probabilities["true"], by_fields.probabilities["true"]]
    assert max(answers) - min(answers) <= 1e-6
    assert by_entity.decision == by_fields.decision
    assert by_entity.digest == served.version.digest


def test_the_page_on_asking_is_followed_word_by_word(
    served: Served, stack: StackUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).parents[2] / "docs" / "asking.md"
    monkeypatch.setenv("PENSTOCK_HOME", str(stack.home))
    event = served.events[7]
    rows = [model_fields(served, one) for one in served.events[7:10]]
    told: dict[str, Any] = {"row": rows[0], "entity": str(event["person_id"])}
    programs = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert len(programs) == 2
    for program in programs:
        exec(program.replace('PIPELINE = "loans"', f'PIPELINE = "{PIPELINE}"'), told)
    named = told["columns"].numbers
    rows += [rows[0] | dict.fromkeys(named, gap) for gap in (float("nan"), None)]
    by_http, prediction = told["over_http"](rows)
    by_grpc = told["over_grpc"](rows)
    assert prediction
    assert np.abs(by_grpc["probabilities"].ravel() - by_http["probabilities"]).max() <= 1e-6
    assert [one.decode() for one in by_grpc["decision"].ravel()] == by_http["decision"]
    answers = [by_http["probabilities"][1], told["by_names"].probabilities["true"]]
    answers.append(told["by_entity"].probabilities["true"])
    assert max(answers) - min(answers) <= 1e-6
    columns = json.loads(run_penstock(stack, "predict", PIPELINE, "--columns", "--json").stdout)
    assert columns["numbers"] == list(named)
    assert {*columns["numbers"], *columns["strings"]} == {*rows[0]}
    shown = run_penstock(stack, "predict", PIPELINE, "--columns").stdout
    assert f"[rows, {len(columns['strings'])}]  {', '.join(columns['strings'])}" in shown


def test_triton_through_the_door_answers_as_onnx_runtime_on_all_rows(served: Served, tmp_path: Path) -> None:
    package = tmp_path / "package.tar"
    package.write_bytes(b"".join(served.client.models.fetch(served.version.digest)))
    unpack(package, tmp_path / "package")
    graph = next((tmp_path / "package").rglob("model.onnx"))
    numbers, strings = tensors(served, served.events)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    texts = np.array([text.decode() for text in strings.ravel()], dtype=object).reshape(strings.shape)
    expected = session.run(["probabilities"], {"numbers": numbers, "strings": texts})[0]
    assert np.abs(infer(served, numbers, strings) - expected).max() <= 1e-6


def test_a_prediction_is_traced_back_to_its_events(served: Served) -> None:
    event = served.events[11]
    prediction = served.client.predictions.by_entity(PIPELINE, str(event["person_id"])).prediction

    def line() -> Any:
        try:
            return served.client.lineage.trace(prediction)
        except PenstockError:
            return None

    found = until(line, what="the prediction is recorded")
    assert found.prediction["pipeline"] == PIPELINE
    assert found.version.digest == served.version.digest
    assert found.run.run_id == served.version.run_id
    assert found.audit.verdict == "pass"
    assert sum(offsets.last - offsets.first for offsets in found.model.training_set.offsets) >= len(
        served.events
    )
    assert [record.id for record in found.events] == [event["event_id"]]


def test_the_report_stands_alone(served: Served) -> None:
    report = served.client.audits.report(served.version.digest).decode()
    assert "<svg" in report
    assert served.version.digest.removeprefix("sha256:")[:8] in report
    for outside in ('src="http', 'href="http', "@import", "<script src"):
        assert outside not in report


def test_a_gate_that_is_not_passed_keeps_the_model_out_and_the_command_says_so(
    served: Served, stack: StackUnderTest
) -> None:
    served.client.pipelines.apply(
        pipeline_text("too-strict", gates="[{metric: auroc, at_least: 0.999, on_fail: block}]", epochs=1),
        by="test",
    )
    served.journey.publish("too-strict", "people", served.events[:2000])
    done = run_penstock(stack, "train", "too-strict", "--wait")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "refused" in done.stdout
    assert "auroc ≥ 0.999" in done.stdout
    assert all(
        serving.pipeline != "too-strict" or not serving.digest
        for serving in served.client.predictions.serving().pipelines
    )


def test_a_gate_on_review_is_opened_by_a_person_and_the_waiver_is_signed(
    served: Served, stack: StackUnderTest
) -> None:
    gates = "[{metric: auroc, at_least: 0.999, on_fail: review}]"
    served.client.pipelines.apply(pipeline_text("reviewed", gates=gates, epochs=1), by="test")
    served.journey.publish("reviewed", "people", served.events[:2000])
    version = served.journey.train("reviewed")
    assert version.state == registry.Version.STATE_REFUSED
    listed = run_penstock(stack, "review", "list", "--pipeline", "reviewed")
    assert f"reviewed@{version.digest.removeprefix('sha256:')[:8]}" in listed.stdout
    approved = run_penstock(
        stack, "review", "approve", version.digest, "--by", "ada", "--why", "a test of waivers"
    )
    assert "not an identity" in approved.stdout
    served.journey.until_served("reviewed", version.digest)
    assert served.client.audits.verify(version.digest).valid


def test_a_second_version_replaces_the_first_and_rollback_brings_it_back(
    served: Served, rolling: Succession
) -> None:
    assert rolling.second.digest != rolling.first.digest
    before = deployment(served, rolling.name)
    back = served.client.models.roll_back(rolling.name, by="test")
    assert back.digest == rolling.first.digest
    assert back.generation == before.generation + 1
    served.journey.until_served(rolling.name, rolling.first.digest)


def test_a_stopped_pipeline_answers_nobody_and_says_why_until_it_is_resumed(
    served: Served, stack: StackUnderTest, rolling: Succession
) -> None:
    name, why, person = rolling.name, "wrong for women", str(served.events[0]["person_id"])
    before = deployment(served, name)
    file = served.client.pipelines.get(name).text
    done = run_penstock(stack, "stop", name, "--why", why)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{name} is stopped, number" in done.stdout
    refused = run_penstock(stack, "predict", name, "--entity", person)
    assert (refused.returncode, f"{name} is stopped: {why}" in refused.stderr) == (1, True)
    assert f"{name} is stopped, nothing of it answers: {why}" in run_penstock(stack, "models", name).stdout
    back = run_penstock(stack, "rollback", name)
    digest, generation = short_digest(rolling.first.digest), f"generation {before.generation + 1}"
    assert f"{name} is back at {digest}, {generation}, which is what answers once" in back.stdout
    assert f"{name} is stopped, nothing of it answers: {why}" in back.stdout
    done = run_penstock(stack, "resume", name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it answers again" in done.stdout
    served.journey.until_served(name, rolling.first.digest)
    assert deployment(served, name).generation == before.generation + 1
    assert served.client.pipelines.get(name).text == file
    assert served.client.predictions.by_entity(name, person).prediction


def test_erasing_a_person_leaves_no_trace_of_them_in_store_or_sets(
    served: Served, stack: StackUnderTest
) -> None:
    name, person = "forgetful", "p00003"
    served.client.pipelines.apply(pipeline_text(name, epochs=1, gates="[]"), by="test")
    served.journey.publish(name, "people", served.events[:2000])
    served.journey.until_served(name, served.journey.train(name).digest)
    assert served.client.predictions.by_entity(name, person).prediction
    assert served.client.features.records(name, "people", entity=person)
    erased = served.client.features.erase(name, person)
    assert (erased.lake_rows, erased.online, erased.training_set_rows) == (1, True, 1)
    assert not served.client.features.records(name, "people", entity=person)
    with pytest.raises(PenstockError, match=person):
        served.client.predictions.by_entity(name, person)
