"""Each alert against a real Prometheus: silent in a state that is just good enough, and firing in
one that is not.

A case is half an hour of each, told with times of its own, one case after the other on one time line.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from files import DASHBOARDS, FOLDER, Alert, alerts, panels
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric as TheirMetric

from penstock.contracts import metrics
from penstock.contracts.metrics import Metric
from penstock.testing.compose import image_of, running_compose
from penstock.testing.containers import require_image
from penstock.testing.prometheus import Prometheus, running_prometheus

pytestmark = pytest.mark.docker

STEP_S = 30
STEPS = 60
"""Of a state: half an hour."""
HOLDS_S = 300
"""So long an alert fires at least once it does: Prometheus looks every 15 s or less often, and a
person less often still.
"""
SETTLED_S = 600
"""So long before the end of the good state no rule remembers its beginning."""
APART_S = 8 * 3600
"""From case to case: further than any rule looks back."""
UP = Metric("up", "gauge", "", "Prometheus' own of what it scrapes.")
GIB = float(1 << 30)

History = list[float | None]
"""What is told every half a minute; None: nothing."""


def level(good: float | None, bad: float | None) -> History:
    return [good] * STEPS + [bad] * STEPS


def count(good_per_s: float, bad_per_s: float) -> History:
    """A counter's."""
    rates = [good_per_s] * STEPS + [bad_per_s] * STEPS
    return [sum(rates[: at + 1]) * STEP_S for at in range(len(rates))]


@dataclass(frozen=True)
class Told:
    metric: Metric
    history: History
    attributes: tuple[str, ...] = ()
    """Values, in the order of the metric's attributes."""
    takes_s: float = 0.0
    """Of a histogram, what each call takes."""
    service: str = "inference"
    replica: str = "1"


@dataclass(frozen=True)
class Case:
    alert: str
    told: Sequence[Told]


EVENTS, DELAYS = ("loans", "applications"), ("loans", "applications")
GROUP = ("loans.applications.events.v1", "penstock.ingest")
CONSUMED = ("kafka", "process", *GROUP)
CASES = [
    Case("ServiceNotReady", [Told(metrics.READY, level(1, 0))]),
    Case(
        "ServiceSilent",
        [Told(metrics.READY, level(1, None)), Told(metrics.READY, level(1, 1), service="ingest")],
    ),
    Case("ServiceSilent", [Told(metrics.READY, [1.0] * 42 + [None] * 12 + [1.0] * 6 + [None] * STEPS)]),
    Case("TargetDown", [Told(UP, level(1, 0))]),
    Case(
        "DiskFilling",
        [
            Told(metrics.HOME_FREE, level(11 * GIB, 9 * GIB)),
            Told(metrics.HOME_SIZE, level(100 * GIB, 100 * GIB)),
        ],
    ),
    Case(
        "DiskFilling",
        [
            Told(
                metrics.HOME_FREE, [29 * GIB - at * 1e4 - max(0, at - STEPS) * 6e7 for at in range(2 * STEPS)]
            ),
            Told(metrics.HOME_SIZE, level(100 * GIB, 100 * GIB)),
        ],
    ),
    Case("ConsumerLag", [Told(metrics.LAG, level(9_000, 11_000), GROUP)]),
    Case(
        "ConsumerStuck",
        [Told(metrics.LAG, level(500, 500), GROUP), Told(metrics.CONSUMED, count(50, 0), CONSUMED)],
    ),
    Case(
        "ConsumerStuck",
        [Told(metrics.LAG, level(0, 500), GROUP), Told(metrics.CONSUMED, count(0, 0), CONSUMED)],
    ),
    Case("DeadLetter", [Told(metrics.DEAD_LETTERS, level(None, 1), GROUP)]),
    Case("DeadLetter", [Told(metrics.DEAD_LETTERS, [7.0] * (2 * STEPS - 20) + [8.0] * 20, GROUP)]),
    Case("ManyDeadLetters", [Told(metrics.DEAD_LETTERS, level(None, 10), GROUP)]),
    Case("ManyDeadLetters", [Told(metrics.DEAD_LETTERS, [7.0] * (2 * STEPS - 20) + [20.0] * 20, GROUP)]),
    Case("ManyDeadLetters", [Told(metrics.DEAD_LETTERS, count(9 / 900, 11 / 900), GROUP)]),
    Case("OutboxStuck", [Told(metrics.OUTBOX_AGE, level(50, 70))]),
    Case(
        "RejectsRising",
        [
            Told(metrics.EVENTS, count(100, 100), (*EVENTS, "record")),
            Told(metrics.EVENTS, count(4, 6), (*EVENTS, "reject")),
        ],
    ),
    Case(
        "OnlineFeaturesStale",
        [
            Told(metrics.ONLINE_DELAY, count(1, 0), DELAYS, 20),
            Told(metrics.ONLINE_DELAY, count(0, 1), DELAYS, 200, replica="2"),
        ],
    ),
    Case("RunFailed", [Told(metrics.RUN_DURATION, level(None, 1), ("loans", "failed"), 3)]),
    Case("StudyFailed", [Told(metrics.STUDY_DURATION, level(None, 1), ("loans", "failed"), 3)]),
    Case("JobsWaiting", [Told(metrics.JOB_WAIT, level(1_700, 1_900), ("training",))]),
    Case("AuditBacklog", [Told(metrics.AUDIT_AGE, level(1_700, 1_900))]),
    Case("ReviewWaiting", [Told(metrics.REVIEW_AGE, level(170_000, 173_000))]),
    Case("DoorClosed", [Told(metrics.DOOR_CLOSED, level(0, 1))]),
    Case("DoorHeld", [Told(metrics.DOOR_HELD, level(0, 1))]),
    Case(
        "PredictionsFail",
        [
            Told(metrics.PREDICTIONS, count(100, 100), ("loans", "grpc", "OK"), 0.01),
            Told(metrics.PREDICTIONS, count(5, 5), ("loans", "grpc", "INVALID_ARGUMENT"), 0.01),
            Told(metrics.PREDICTIONS, count(0.4, 0.8), ("loans", "grpc", "UNAVAILABLE"), 0.01),
            Told(metrics.PREDICTIONS, count(0.4, 0.8), ("loans", "http", "503"), 0.01),
        ],
    ),
    Case(
        "PredictionsSlow",
        [
            Told(metrics.PREDICTIONS, count(100, 100), ("loans", "grpc", "OK"), 0.01),
            Told(metrics.PREDICTIONS, count(0.5, 2), ("loans", "http", "200"), 0.7),
        ],
    ),
    Case("RecorderBehind", [Told(metrics.RECORDER_BACKLOG, level(60 << 20, 70 << 20))]),
    Case("PromotionRefused", [Told(metrics.DEPLOYMENTS, level(0, 1), ("refused",))]),
    Case("SiteSilent", [Told(metrics.SITE_SILENCE, level(800, 1_000))]),
    Case("SiteSpoolFilling", [Told(metrics.SITE_SPOOL, level(0.75, 0.85))]),
    Case("SiteClockSkew", [Told(metrics.SITE_CLOCK, level(280, 320))]),
    Case("SiteRefusedVersion", [Told(metrics.SITE_REFUSALS, level(0, 1))]),
    Case("TrustOld", [Told(metrics.SITE_TRUST, level(86_000, 87_000))]),
]
ALERTS = {alert.name: alert for alert in alerts()}


@pytest.fixture(scope="module")
def prometheus(engine: None) -> Iterator[Prometheus]:
    with running_prometheus() as server:
        yield server


@pytest.fixture(scope="module")
def told(prometheus: Prometheus) -> list[float]:
    """When each case began: all are in the server."""
    began = [time.time() - APART_S * (len(CASES) - number) for number in range(len(CASES))]
    for start, case in zip(began, CASES, strict=True):
        prometheus.tell(_export(start, case.told).SerializeToString())
    return began


@pytest.mark.parametrize(
    "number", range(len(CASES)), ids=[f"{number}-{case.alert}" for number, case in enumerate(CASES)]
)
def test_an_alert_fires_when_it_should_and_not_before(
    prometheus: Prometheus, told: list[float], number: int
) -> None:
    alert = ALERTS[CASES[number].alert]
    good_until, bad_until = told[number] + STEPS * STEP_S, told[number] + 2 * STEPS * STEP_S
    assert firing(prometheus, alert, good_until - SETTLED_S, good_until) == []
    (fired,) = firing(prometheus, alert, good_until, bad_until, holds_s=HOLDS_S)
    assert set(re.findall(r"\$labels\.(\w+)", alert.summary)) <= fired.keys(), "what the summary names"


def test_every_alert_has_a_case() -> None:
    assert {case.alert for case in CASES} == ALERTS.keys()


@pytest.mark.parametrize("dashboard", DASHBOARDS)
def test_what_a_screen_asks_is_promql(prometheus: Prometheus, dashboard: str) -> None:
    for shown in panels(dashboard).values():
        for expression in shown:
            prometheus.query(expression)


def test_prometheus_takes_the_rules_as_the_overlay_gives_them(engine: None) -> None:
    with running_compose("observability", services=["prometheus"], build=False) as stack:
        rules = Prometheus(stack.prometheus_address).rules()
    assert rules.keys() == ALERTS.keys()
    assert set(rules.values()) <= {"ok", "unknown"}, "unknown: not evaluated yet"


def test_the_collector_takes_its_files_alone_and_with_jaegers(engine: None) -> None:
    image = image_of("otel-collector", "observability")
    require_image(image)
    for files in (["collector.yaml"], ["collector.yaml", "jaeger.yaml"]):
        configs = [f"--config=/etc/penstock/{name}" for name in files]
        command = [
            "docker",
            "run",
            "--rm",
            "--network",
            "none",
            "--volume",
            f"{FOLDER}:/etc/penstock:ro",
            image,
            "validate",
            *configs,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


def firing(
    prometheus: Prometheus, alert: Alert, start: float, end: float, holds_s: float = 0.0
) -> list[dict[str, str]]:
    """Labels of what has, at some look before `end`, been true at each look within the time that
    the rule waits, and `holds_s` longer.
    """
    waits = int((alert.for_s + holds_s) // STEP_S) + 1
    found = prometheus.query_range(alert.expression, start - alert.for_s, end - STEP_S / 2, STEP_S)
    return [labels for labels, looks in found if longest(looks) >= waits]


def longest(looks: Sequence[float]) -> int:
    """How many looks in a row had an answer."""
    runs = [
        list(run)
        for _, run in itertools.groupby(enumerate(looks), key=lambda pair: pair[1] - STEP_S * pair[0])
    ]
    return max((len(run) for run in runs), default=0)


# -- as OTLP has it --------------------------------------------------------------------------------


def _export(start: float, told: Sequence[Told]) -> ExportMetricsServiceRequest:
    request = ExportMetricsServiceRequest()
    for one in told:
        resource = request.resource_metrics.add()
        for key, value in (("service.name", f"penstock.{one.service}"), ("service.instance.id", one.replica)):
            resource.resource.attributes.add(key=key).value.string_value = value
        _write(
            resource.scope_metrics.add().metrics.add(name=one.metric.name, unit=one.metric.unit), start, one
        )
    return request


def _write(metric: TheirMetric, start: float, told: Told) -> None:
    if told.metric.buckets:
        metric.histogram.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
        points = metric.histogram.data_points
    elif told.metric.kind == "counter":
        metric.sum.is_monotonic = True
        metric.sum.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
        points = metric.sum.data_points
    else:
        points = metric.gauge.data_points
    for at, value in enumerate(told.history):
        if value is None:
            continue
        point = points.add(time_unix_nano=int((start + at * STEP_S) * 1e9))
        for key, text in zip(told.metric.attributes, told.attributes, strict=True):
            point.attributes.add(key=key).value.string_value = text
        if not told.metric.buckets:
            point.as_double = value
            continue
        point.count, point.sum = round(value), value * told.takes_s
        point.explicit_bounds.extend(told.metric.buckets)
        fits = next(
            (at for at, bound in enumerate(told.metric.buckets) if told.takes_s <= bound),
            len(told.metric.buckets),
        )
        point.bucket_counts.extend(
            round(value) if at == fits else 0 for at in range(len(told.metric.buckets) + 1)
        )
