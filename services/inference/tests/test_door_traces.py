"""What the door tells a collector of each call, and that a client's trace goes on behind it: on a
real Envoy.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from real_envoy import prepared, running

from penstock.serving.records import PREDICTION_HEADER
from penstock.testing.otlp import Receiver, Span
from penstock.testing.wait import until
from penstock_inference.door.bootstrap import bootstrap
from penstock_inference.door.door import Backends, Door

pytestmark = pytest.mark.process

INFER = "/inference.GRPCInferenceService/ModelInfer"
COUNTS = "/penstock.ingest.v1.IngestService/GetCounts"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


class Behind(grpc.GenericRpcHandler):
    """Whoever is behind the door: answers everything, and remembers what the calls carried."""

    def __init__(self) -> None:
        self.traceparents: list[str | None] = []

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        self.traceparents.append(dict(details.invocation_metadata).get("traceparent"))
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def behind() -> Behind:
    return Behind()


@pytest.fixture(scope="module")
def door(
    tmp_path_factory: pytest.TempPathFactory, receiver: Receiver, behind: Behind
) -> Iterator[grpc.Channel]:
    """A channel to it."""
    server = grpc.server(ThreadPoolExecutor(2), handlers=[behind])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    services = {"ingest": address, "inference": address}
    backends = Backends(address, address, address)
    made = prepared(tmp_path_factory.mktemp("envoy"), backends, services, traces=receiver.address)
    with running(made), grpc.insecure_channel(made.listen) as channel:
        grpc.channel_ready_future(channel).result(60)
        yield channel
    server.stop(0)


def told(receiver: Receiver, **attributes: str) -> Span:
    def look() -> Span | None:
        return next(
            (span for span in receiver.spans() if span.attributes.items() >= attributes.items()), None
        )

    found = until(look, what=f"a span with {attributes} is told")
    assert found is not None
    return found


def test_a_clients_trace_goes_on_behind_the_door(
    door: grpc.Channel, receiver: Receiver, behind: Behind
) -> None:
    door.unary_unary(COUNTS)(
        b"", timeout=5, metadata=[("traceparent", f"00-{TRACE}-{PARENT}-01")], wait_for_ready=True
    )
    carried = behind.traceparents[-1] or ""
    span = until(
        lambda: next((span for span in receiver.spans() if span.trace_id == TRACE), None),
        what="the door's span is told",
    )
    assert span is not None
    assert (span.service, span.parent_id) == ("penstock.door", PARENT)
    assert carried.split("-")[1:3] == [TRACE, span.span_id]


def test_a_prediction_is_found_by_its_id_whoever_began_its_trace(
    door: grpc.Channel, receiver: Receiver
) -> None:
    _, call = door.unary_unary(INFER).with_call(b"", timeout=5)
    identity = str(dict(call.initial_metadata())[PREDICTION_HEADER])
    assert told(receiver, **{"penstock.prediction": identity}).parent_id == ""


def test_without_a_collector_the_door_traces_nothing(tmp_path: Path) -> None:
    door = Door(
        tmp_path, "127.0.0.1:1", "127.0.0.1:2", Backends("127.0.0.1:3", "127.0.0.1:4", "127.0.0.1:5"), {}
    )
    assert "tracing" not in str(bootstrap(door))
