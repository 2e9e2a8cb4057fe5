"""What a service tells a collector, and that a collector that is away harms nobody."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from penstock.contracts.metrics import CALLS, HOME_FREE, JOB_DURATION, JOBS, MEMORY, READY, WAITING, Metric
from penstock.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from penstock.runtime import rpc
from penstock.testing.broker import free_ports
from penstock.testing.otlp import Point, Receiver, Span
from penstock.testing.wait import until

pytestmark = pytest.mark.process

SERVICE = """
    from penstock.runtime.loading import loading
    with loading():  # as `__main__` does
        from penstock.contracts.errors import NotFound
        from penstock.ingest.v1 import ingest_pb2, ingest_pb2_grpc
        from penstock.runtime.lifecycle import Service
        from penstock.runtime.process import start
        from penstock.runtime.settings import ServiceSettings, service_config
        from penstock.runtime.store import Store

    class Settings(ServiceSettings):
        model_config = service_config("ingest")

    class Servicer(ingest_pb2_grpc.IngestServiceServicer):
        async def GetCounts(self, request, context):
            if request.pipeline:
                raise NotFound("no such pipeline")
            await self.store.write(lambda effect: effect.enqueue("stroll", "1", {}))
            return ingest_pb2.GetCountsResponse()

    async def run(settings):
        async with Service("ingest", settings) as service:
            Servicer.store = store = Store.open(settings.database_url)
            service.serve(
                ingest_pb2_grpc.add_IngestServiceServicer_to_server,
                Servicer(),
            )
            service.jobs("stroll", module="stroll", store=store, on_result=lambda *_: None, on_failure=print)
            service.readiness.waits_for("the moon", "it has not risen")
            await service.until_stopped()

    start(run, Settings)
"""
JOB = """
    from opentelemetry import trace
    from penstock.runtime.child import job_main

    def run(job):
        with trace.get_tracer("stroll").start_as_current_span("a step"):
            return {}

    if __name__ == "__main__":
        job_main(run)
"""


class Running:
    """The service above, as long as the test lasts."""

    def __init__(self, home: Path, endpoint: str) -> None:
        (port,) = free_ports(1)
        (home / "stroll.py").write_text(textwrap.dedent(JOB))
        self.log = home / "log"
        environment = os.environ | {
            "PENSTOCK_HOME": str(home),
            "PENSTOCK_INGEST__PORT": str(port),
            "PYTHONPATH": str(home),
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SERVICE)], env=environment, stderr=self.log.open("wb")
        )
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        grpc.channel_ready_future(self.channel).result(60)

    def call(self, pipeline: str = "") -> None:
        ingest_pb2_grpc.IngestServiceStub(self.channel).GetCounts(
            ingest_pb2.GetCountsRequest(pipeline=pipeline), timeout=5
        )

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def running(receiver: Receiver, tmp_path: Path) -> Iterator[Running]:
    yield from run(tmp_path, receiver.endpoint)


def run(home: Path, endpoint: str) -> Iterator[Running]:
    service = Running(home, endpoint)
    yield service
    service.channel.close()
    service.process.kill()
    service.process.wait(10)


def reported(receiver: Receiver, metric: Metric, **attributes: str) -> Point:
    """The series with these attributes, once it is told."""

    def look() -> Point | None:
        return next(
            (
                point
                for point in receiver.points(metric.name)
                if point.attributes.items() >= attributes.items()
            ),
            None,
        )

    found = until(look, what=f"{metric.name} {attributes} is told")
    assert found is not None
    assert (found.service, found.unit) == ("penstock.ingest", metric.unit)
    return found


def spans(receiver: Receiver, *names: str) -> list[Span]:
    """One span of each name, once they are told."""

    def look() -> list[Span]:
        found = {span.name: span for span in receiver.spans()}
        return [found[name] for name in names] if found.keys() >= set(names) else []

    return until(look, what=f"spans {names} are told")


def test_every_service_tells_whether_it_is_ready_and_what_it_uses(
    running: Running, receiver: Receiver
) -> None:
    assert reported(receiver, READY).value == 0
    # The first word: what follows may be one name of many.
    assert reported(receiver, WAITING, thing="the").attributes == {"thing": "the"}
    assert reported(receiver, MEMORY).value > 10e6
    assert reported(receiver, HOME_FREE).value > 0
    assert reported(receiver, JOBS, kind="stroll", state="queued").value == 0


def test_a_call_is_told_with_its_status_and_the_trace_it_was_part_of(
    running: Running, receiver: Receiver
) -> None:
    running.call()
    with pytest.raises(grpc.RpcError):
        running.call("unknown")
    method = {"rpc.method": "penstock.ingest.v1.IngestService/GetCounts"}
    refused = reported(receiver, CALLS, **method, **{"rpc.response.status_code": "NOT_FOUND"})
    assert refused.value == 1
    assert reported(receiver, CALLS, **method, **{"rpc.response.status_code": "OK"}).value == 1
    until(
        lambda: {span.trace_id for span in receiver.spans()},
        accept=lambda told: refused.exemplars <= told,
        what="the refused call's span is told",
    )
    assert len(refused.exemplars) == 1


def test_a_job_and_what_it_does_are_in_the_trace_of_who_wanted_it(
    running: Running, receiver: Receiver
) -> None:
    running.call()
    wanted, ran, job, step = spans(
        receiver, "/penstock.ingest.v1.IngestService/GetCounts", "run stroll", "job stroll", "a step"
    )
    assert len({wanted.trace_id, ran.trace_id, job.trace_id, step.trace_id}) == 1
    assert (ran.parent_id, job.parent_id, step.parent_id) == (wanted.span_id, ran.span_id, job.span_id)
    done = reported(receiver, JOB_DURATION, kind="stroll", outcome="done")
    assert (done.value, done.exemplars) == (1, {ran.trace_id})
    assert wanted.trace_id in running.log.read_text()


def test_health_and_status_make_no_traces(running: Running, receiver: Receiver) -> None:
    from penstock.status.v1 import status_pb2, status_pb2_grpc

    status_pb2_grpc.StatusServiceStub(running.channel).GetStatus(status_pb2.GetStatusRequest(), timeout=5)
    running.call()
    spans(receiver, "/penstock.ingest.v1.IngestService/GetCounts")
    assert not [span for span in receiver.spans() if "Status" in span.name]
    assert (
        reported(receiver, CALLS, **{"rpc.method": "penstock.status.v1.StatusService/GetStatus"}).value == 1
    )


def test_what_happened_last_is_told_before_it_ends(running: Running, receiver: Receiver) -> None:
    running.call()
    assert running.end() == 0
    assert "/penstock.ingest.v1.IngestService/GetCounts" in {span.name for span in receiver.spans()}
    assert receiver.points(CALLS.name)


def test_a_collector_that_is_away_harms_nothing(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    for running in run(tmp_path, f"http://127.0.0.1:{port}"):
        running.call()
        assert running.end() == 0


@pytest.mark.parametrize(
    ("method", "traceparent", "share"),
    [
        ("/penstock.ingest.v1.IngestService/GetCounts", None, 1.0),
        ("/grpc.health.v1.Health/Check", f"00-{'a' * 32}-{'b' * 16}-01", 0.0),
        ("/inference.GRPCInferenceService/ModelInfer", f"00-{'a' * 32}-{'b' * 16}-01", 1.0),
        ("/inference.GRPCInferenceService/ModelInfer", f"00-{'a' * 32}-{'b' * 16}-00", 0.0),
        ("/inference.GRPCInferenceService/ModelInfer", None, 0.01),
        ("/penstock.edge_gateway.v1.SiteService/Publish", None, 0.01),
        ("/penstock.edge_gateway.v1.SiteService/GetStatus", None, 1.0),
        ("/penstock.feature_store.v1.FeatureStoreService/GetOnlineFeatures", None, 0.01),
        ("/penstock.inference.v1.InferenceService/Predict", None, 0.01),
        ("/penstock.inference.v1.InferenceService/Predict", f"00-{'a' * 32}-{'b' * 16}-01", 1.0),
    ],
)
def test_one_inference_in_a_hundred_has_a_span_and_each_of_a_caller_that_traces(
    method: str, traceparent: str | None, share: float
) -> None:
    random.seed(7)
    metadata = [("traceparent", traceparent)] if traceparent else []
    call = SimpleNamespace(method=method, invocation_metadata=metadata)
    spans = sum(rpc._answered_in_a_span(call) for _ in range(20_000))  # type: ignore[arg-type]
    assert abs(spans - share * 20_000) <= 60


@pytest.mark.parametrize(
    ("method", "outside"),
    [
        ("/penstock.feature_store.v1.FeatureStoreService/GetOnlineFeatures", False),
        (b"/inference.GRPCInferenceService/ModelInfer", False),
        ("/penstock.ingest.v1.IngestService/GetCounts", True),
    ],
)
def test_what_comes_by_the_thousand_is_asked_in_a_span_only_within_one(
    method: str | bytes, outside: bool
) -> None:
    """Else each prediction by entity without a span would begin two traces."""
    call: Any = SimpleNamespace(method=method)
    assert rpc._asked_in_a_span(call) == outside
    with trace.use_span(TracerProvider().get_tracer("test").start_span("a call")):
        assert rpc._asked_in_a_span(call)
