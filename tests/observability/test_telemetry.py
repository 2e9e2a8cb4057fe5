"""The table of what each service tells, asked of a platform that has done everything once: metrics,
traces, logs.
"""

from __future__ import annotations

import json
import operator
from typing import Any

import pytest
from files import DASHBOARDS, OTHERS, alerts, panels

from penstock.contracts.metrics import CATALOGUE, SERVICES, Metric
from penstock.testing.wait import until

pytestmark = pytest.mark.compose

TABLE = [
    pytest.param(metric, service, id=f"{service}-{metric.name}")
    for metric in CATALOGUE
    for service in metric.services
    if not metric.name.startswith("penstock.run.gpu.")
]
"""But for those of a run on a GPU, which no machine of these tests has."""
PROMETHEUS_OWN = {"__name__", "job", "instance", "le"}
PROMETHEUS_MAKES = {"target_info", "ALERTS", "ALERTS_FOR_STATE"}
OWED = {"RejectsRising", "DiskFilling"}
"""More than one event in twenty is bad by the test's own doing; and the disk is the machine's."""
SETTLES_S = 60.0
"""What is looked at every half a minute, and told every second."""


@pytest.mark.parametrize(("metric", "service"), TABLE)
def test_a_service_tells_each_metric_that_the_catalogue_says_with_just_its_labels(
    told: Any, metric: Metric, service: str
) -> None:
    selector = f'{metric.series[0]}{{job="penstock.{service}"}}'
    found = until(lambda: told.prometheus.series(selector), within=SETTLES_S, what=f"{selector} is told")
    assert {frozenset(series.keys() - PROMETHEUS_OWN) for series in found} == {frozenset(metric.labels)}


def test_nothing_is_told_that_is_not_in_the_catalogue(told: Any) -> None:
    known = {name for metric in CATALOGUE for name in metric.series} | PROMETHEUS_MAKES
    assert {
        series["__name__"] for series in told.prometheus.series('{job=~"penstock[.].*"}')
    } - known == set()


def test_no_label_names_an_entity_an_event_or_a_prediction(told: Any) -> None:
    values = {
        value for series in told.prometheus.series('{job=~"penstock[.].*"}') for value in series.values()
    }
    people = {str(event[key]) for event in told.served.events for key in ("person_id", "event_id")}
    assert not values & people
    assert told.prediction not in values
    assert told.asked_run not in values


def test_counts_are_those_of_the_ledger(told: Any) -> None:
    counts = told.served.client.events.counts("census", "people")

    def counted() -> bool:
        by_outcome = {
            labels["outcome"]: value
            for labels, value in told.prometheus.query("sum by (outcome) (penstock_ingest_events_total)")
        }
        return by_outcome == {
            "record": counts.records,
            "duplicate": counts.duplicates,
            "reject": sum(counts.rejects.values()),
        }

    until(counted, within=SETTLES_S, what="Prometheus counts what the ledger counts")


def test_nothing_waits_and_no_alert_is_due_when_all_is_done(told: Any) -> None:
    def due() -> dict[str, Any]:
        found = {
            alert.name: told.prometheus.query(alert.expression)
            for alert in alerts()
            if alert.name not in OWED
        }
        lagging = [labels for labels, lag in told.prometheus.query("penstock_consumer_lag") if lag]
        return {name: labels for name, labels in {**found, "lag": lagging}.items() if labels}

    until(due, accept=operator.not_, within=SETTLES_S, what="nothing waits and no alert is due")


@pytest.mark.parametrize("screen", DASHBOARDS)
def test_a_screen_shows_something_in_every_panel(told: Any, screen: str) -> None:
    """But for what Triton, Envoy and Prometheus itself tell, which run elsewhere here, and a GPU's."""

    def empty() -> list[str]:
        asked = {
            title: [one.replace("[5m]", "[1h]") for one in shown] for title, shown in panels(screen).items()
        }
        ours = {
            title: shown
            for title, shown in asked.items()
            if not any(other in one for one in shown for other in (*OTHERS, "ALERTS", "penstock_run_gpu_"))
        }
        return [
            title for title, shown in ours.items() if not any(told.prometheus.query(one) for one in shown)
        ]

    until(empty, accept=operator.not_, within=SETTLES_S, what=f"each panel of {screen} shows something")


@pytest.mark.parametrize("service", [*SERVICES, "door"])
def test_a_service_tells_its_spans(told: Any, service: str) -> None:
    until(
        lambda: [span for span in told.receiver.spans() if span.service == f"penstock.{service}"],
        within=SETTLES_S,
        what=f"{service} tells spans",
    )


@pytest.mark.parametrize("service", SERVICES)
def test_a_services_log_names_traces_that_were_told(told: Any, service: str) -> None:
    def look() -> bool:
        traces = {span.trace_id for span in told.receiver.spans()}
        lines = (json.loads(line) for line in told.stack.log(service).splitlines() if line.startswith("{"))
        return any(line.get("trace_id") in traces for line in lines)

    until(look, within=SETTLES_S, what=f"a line of {service}'s log is of a trace that was told")


def test_an_event_is_followed_through_ingest_and_feature_store(told: Any) -> None:
    linked = {(span.service, span.name) for span in told.receiver.spans() if told.event_trace in span.links}
    assert linked == {
        ("penstock.ingest", "process census.people.events.v1"),
        ("penstock.feature_store", "write census.people.records.v1"),
    }
    (record,) = told.served.client.features.records(
        "census", "people", id=str(told.served.events[0]["event_id"])
    )
    assert record.traceparent.split("-")[1] == told.event_trace


def test_a_run_is_one_trace_from_its_trigger_to_what_is_served(told: Any) -> None:
    assert told.trace("request training", "feature_store") >= {
        ("trainer", "process TrainingRunRequested"),
        ("trainer", "run training"),
        ("trainer", "job training"),
        ("feature_store", "/penstock.feature_store.v1.FeatureStoreService/CreateTrainingSet"),
        ("feature_store", "create training set"),
        ("model_registry", "process TrainingRunCompleted"),
        ("ethics_audit", "process ModelVersionRegistered"),
        ("ethics_audit", "job audit"),
        ("model_registry", "process AuditCompleted"),
        ("inference", "deploy"),
    }


def test_a_run_that_a_person_asks_for_begins_at_the_door(told: Any) -> None:
    assert told.trace("/penstock.trainer.v1.TrainerService/CreateRun", "trainer") >= {
        ("door", "ingress"),
        ("trainer", "job training"),
        ("model_registry", "process AuditCompleted"),
    }


def test_a_prediction_by_entity_is_one_trace_and_is_found_by_its_id(told: Any) -> None:
    def spans() -> list[Any]:
        return [
            span
            for span in told.receiver.spans()
            if span.attributes.get("penstock.prediction") == told.prediction
        ]

    (infer,) = until(spans, within=SETTLES_S, what="the door tells the prediction's span")
    trace = [span for span in told.receiver.spans() if span.trace_id == infer.trace_id]
    assert {(span.service, span.name) for span in trace} >= {
        ("penstock.door", "ingress"),
        ("penstock.inference", "/penstock.inference.v1.InferenceService/Predict"),
        ("penstock.feature_store", "/penstock.feature_store.v1.FeatureStoreService/GetOnlineFeatures"),
    }
    recorded = {
        trace_id
        for span in told.receiver.spans()
        if span.name == "record predictions"
        for trace_id in span.links
    }
    assert infer.trace_id in recorded


@pytest.mark.parametrize(
    "metric",
    [
        "penstock_prediction_duration_seconds",
        "penstock_transaction_duration_seconds",
        "penstock_job_duration_seconds",
        "rpc_server_call_duration_seconds",
    ],
)
def test_exemplars_lead_to_traces(told: Any, metric: str) -> None:
    def look() -> bool:
        traces = {span.trace_id for span in told.receiver.spans()}
        return bool(told.prometheus.exemplars(f"{metric}_bucket") & traces)

    until(look, within=SETTLES_S, what=f"an exemplar of {metric} is among the traces")
