"""`told`: a platform that has done everything once, and all that it told of itself by then."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from census import PIPELINE, ROWS, Served, people, pipeline_text, spoiled
from confluent_kafka import Producer

from penstock.client import Penstock
from penstock.client.studies import ENDED
from penstock.contracts.metrics import READY, SERVICES
from penstock.testing.compose import running_compose
from penstock.testing.journey import Journey
from penstock.testing.otlp import Receiver
from penstock.testing.prometheus import Prometheus, running_prometheus
from penstock.testing.stack import StackUnderTest, running_stack
from penstock.testing.wait import until
from penstock.tuner.v1 import tuner_pb2 as tuner

EVENT_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
"""The trace that one of the events was published in."""
PERSON = "p00003"
EVERY_S = 1.0


@dataclass(frozen=True)
class Told:
    stack: StackUnderTest
    served: Served
    receiver: Receiver
    """Holds the spans."""
    prometheus: Prometheus
    """Holds the metrics."""
    asked_run: str
    prediction: str
    event_trace: str = EVENT_TRACE

    def trace(self, span: str, service: str) -> set[tuple[str, str]]:
        """(service, span) of all in the traces that have such a span."""
        spans = self.receiver.spans()
        traces = {one.trace_id for one in spans if (one.service, one.name) == (f"penstock.{service}", span)}
        return {(one.service.removeprefix("penstock."), one.name) for one in spans if one.trace_id in traces}


@pytest.fixture(scope="session")
def collector(engine: None) -> Iterator[tuple[str, Prometheus]]:
    """The overlay's, without the platform: its host:port, and the overlay's Prometheus, which it
    passes metrics on to.
    """
    with running_compose("observability", services=["otel-collector"], build=False) as compose:
        yield f"127.0.0.1:{compose.environment['PENSTOCK_OTLP_PORT']}", Prometheus(compose.prometheus_address)


@pytest.fixture(scope="session")
def plain_prometheus(engine: None) -> Iterator[Prometheus]:
    """One that scrapes nothing: its time line is what a test tells it."""
    with running_prometheus() as prometheus:
        yield prometheus


@pytest.fixture(scope="session")
def told(collector: tuple[str, Prometheus], plain_prometheus: Prometheus) -> Iterator[Told]:
    """Metrics reach Prometheus through the collector; one that was built without its OTLP receiver
    has them by remote write.
    """
    address, prometheus = collector
    pass_on = None if prometheus.takes_otlp else plain_prometheus.tell
    prometheus = prometheus if prometheus.takes_otlp else plain_prometheus
    with (
        Receiver(forward_to=address, metrics_to=pass_on) as receiver,
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        environment.setenv("OTEL_METRIC_EXPORT_INTERVAL", str(EVERY_S * 1000))
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", str(int(EVERY_S * 1000)))
        environment.setenv("PENSTOCK_INFERENCE__DOOR_TRACES", receiver.address)
        with running_stack() as stack:
            served, run, prediction = do_everything(stack.client)
            with stack.without("kafka"):
                until(
                    lambda: len(prometheus.query(f"{READY.prometheus} == 0")) == len(SERVICES),
                    within=90,
                    what="every service tells that it waits for Kafka",
                )
            stack.ready(within=120)
            yield Told(stack, served, receiver, prometheus, run, prediction)


def do_everything(client: Penstock) -> tuple[Served, str, str]:
    """One of each: events good, bad and repeated; a run that labels triggered, one that a person
    asked for; a study; audit, promotion, prediction, erasure.
    """
    journey, events = Journey(client), people()[:ROWS]
    bad, expected = spoiled(events)
    client.pipelines.apply(
        pipeline_text().replace("training: {", f"training: {{trigger: {{new_labels: {ROWS}}}, "), by="test"
    )
    publish_in_a_trace(client, events[0])
    journey.publish(PIPELINE, "people", [*events[1:], *bad])
    triggered = until(lambda: client.runs.list(PIPELINE), what="the labels have triggered a run")[0]
    version = journey.decided(PIPELINE, journey.ended(triggered.run_id).digest)
    journey.until_served(PIPELINE, version.digest)
    asked = journey.run(PIPELINE, {"trainer.epochs": 2})
    journey.decided(PIPELINE, asked.digest)
    study = client.studies.create(PIPELINE, trials=1, by="test")
    ended = until(
        lambda: client.studies.get(study.study_id),
        accept=lambda found: found.state in ENDED,
        within=180,
        what="the study has ended",
    )
    assert ended.state == tuner.Study.STATE_COMPLETED, ended.failure
    prediction = client.predictions.by_entity(PIPELINE, "p00011").prediction
    client.sites.erase(PIPELINE, PERSON)
    client.features.erase(PIPELINE, PERSON)
    return Served(journey, events, expected, version), asked.run_id, prediction


def publish_in_a_trace(client: Penstock, event: dict[str, object]) -> None:
    """As any program may that traces itself."""
    import orjson

    kafka = client.settings.kafka
    producer = Producer(kafka.client(enable_idempotence=True, partitioner="murmur2_random"))
    headers = {"traceparent": f"00-{EVENT_TRACE}-00f067aa0ba902b7-01"}
    producer.produce(
        kafka.topic(f"{PIPELINE}.people.events.v1"),
        orjson.dumps(event),
        str(event["person_id"]).encode(),
        headers=headers,
    )
    assert producer.flush(30) == 0
