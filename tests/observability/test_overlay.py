"""The stack with deploy/compose/observability.yaml: what is scraped answers, and what services tell
arrives at the collector.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest
from census import PIPELINE, Served, model_fields, pipeline_text
from files import OTHERS, ROOT, panels

from penstock.testing.compose import ComposeUnderTest
from penstock.testing.prometheus import Prometheus
from penstock.testing.wait import until

pytestmark = pytest.mark.compose

SCRAPED_WITHIN_S = 60.0


PAGE = re.findall(
    r"^```bash\n(.*?)^```", (ROOT / "docs" / "observability.md").read_text(), re.MULTILINE | re.DOTALL
)


@pytest.fixture(scope="module")
def seen(compose: ComposeUnderTest) -> Iterator[ComposeUnderTest]:
    """The session's stack, which ran without the overlay, and was given it as the page says. Afterwards
    its services go on telling, and nobody hears them.
    """
    plain, kafka = compose.environment["COMPOSE_FILE"], compose.containers("kafka")
    _run(PAGE[0], compose)
    compose.environment["COMPOSE_FILE"] = f"{plain}:{compose.root}/deploy/compose/observability.yaml"
    try:
        assert compose.containers("kafka") == kafka, "a stack that runs goes on"
        yield compose
    finally:
        compose.compose("rm", "--stop", "--force", "otel-collector", "prometheus")
        compose.environment["COMPOSE_FILE"] = plain


@pytest.fixture(scope="module")
def served(seen: ComposeUnderTest, served_by_compose: Served) -> Served:
    return served_by_compose


@pytest.fixture(scope="module")
def prometheus(seen: ComposeUnderTest) -> Prometheus:
    return Prometheus(seen.prometheus_address)


def test_everything_that_is_scraped_answers(prometheus: Prometheus) -> None:
    jobs = {"prometheus", "otel-collector", "triton", "envoy"}
    until(
        lambda: prometheus.targets() == dict.fromkeys(jobs, "up"),
        within=SCRAPED_WITHIN_S,
        what="all targets are up",
    )


def test_what_triton_and_envoy_tell_is_on_the_screen(served: Served, prometheus: Prometheus) -> None:
    shown = [
        one
        for expressions in panels("flow").values()
        for one in expressions
        if any(other in one for other in OTHERS)
    ]
    assert len(shown) == len(OTHERS)

    def empty() -> list[str]:
        served.client.predictions.by_fields(PIPELINE, model_fields(served, served.events[0]))
        return [one for one in shown if not any(value > 0 for _, value in prometheus.query(one))]

    until(lambda: not empty(), within=SCRAPED_WITHIN_S, what="each panel shows something")


@pytest.mark.parametrize("what", ["spans", "metric_points"])
def test_what_services_tell_arrives_at_the_collector(
    served: Served, prometheus: Prometheus, what: str
) -> None:
    def arrived() -> bool:
        said = prometheus.query(f'{{__name__=~"otelcol_receiver_accepted_{what}(_total)?"}}')
        return any(value > 0 for _, value in said)

    until(arrived, within=SCRAPED_WITHIN_S, what=f"{what} arrive")


def test_the_door_tells_its_spans(served: Served, prometheus: Prometheus) -> None:
    """Envoy itself sends them: no service of ours stands between."""

    def spans() -> float:
        return sum(value for _, value in prometheus.query("envoy_tracing_opentelemetry_spans_sent"))

    until(spans, within=SCRAPED_WITHIN_S, what="Envoy has sent spans")


def test_a_trace_is_found_in_the_logs(seen: ComposeUnderTest, served: Served) -> None:
    served.client.pipelines.apply(pipeline_text("seen"), by="test")
    traces = re.findall(r'"trace_id": "(\w{32})"', seen.log("model-registry"))
    assert '"service": "model_registry"' in _run(PAGE[1].replace("TRACE", traces[-1]), seen)


def _run(script: str, stack: ComposeUnderTest) -> str:
    return subprocess.run(
        ["bash", "-c", script],
        cwd=stack.root,
        env=stack.environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    ).stdout
