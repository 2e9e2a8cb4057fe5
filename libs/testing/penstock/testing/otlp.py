"""Receiver of traces and metrics of services under test: keeps them, and passes them on to a real
collector if there is one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

_TRACES = "opentelemetry.proto.collector.trace.v1.TraceService"
_METRICS = "opentelemetry.proto.collector.metrics.v1.MetricsService"
_FORWARD_S = 10.0


@dataclass(frozen=True)
class Span:
    """`service` is its `service.name`, `parent_id` empty at a trace's beginning; `links` are trace ids,
    `attributes` those that are texts.
    """

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    links: frozenset[str]
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class Point:
    """The newest of one series. `service` is its `service.name`, `value` a histogram's count;
    `exemplars` are trace ids.
    """

    service: str
    name: str
    unit: str
    attributes: Mapping[str, str]
    value: float
    exemplars: frozenset[str]


class Receiver:
    """`with Receiver() as receiver:` and OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint."""

    def __init__(
        self, forward_to: str | None = None, metrics_to: Callable[[bytes], None] | None = None
    ) -> None:
        """`forward_to`: a collector's host:port. `metrics_to` is given each
        ExportMetricsServiceRequest as well.
        """
        self._forward_to = forward_to
        self._metrics_to = metrics_to
        self._lock = threading.Lock()
        self._spans: list[Span] = []
        self._points: dict[tuple[str, str, frozenset[tuple[str, str]]], Point] = {}

    def spans(self) -> list[Span]:
        """Spans so far. A process sends its spans every five seconds, and when it ends."""
        with self._lock:
            return list(self._spans)

    def points(self, name: str) -> list[Point]:
        """Every series of the metric `name`."""
        with self._lock:
            return [point for point in self._points.values() if point.name == name]

    def __enter__(self) -> Self:
        self._channel = grpc.insecure_channel(self._forward_to) if self._forward_to else None
        self._server = grpc.server(ThreadPoolExecutor(4))
        for service, keep in ((_TRACES, self._keep_spans), (_METRICS, self._keep_points)):
            handler: Any = grpc.unary_unary_rpc_method_handler(self._export(service, keep))
            self._server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service, {"Export": handler}),)
            )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self.endpoint = f"http://{self.address}"
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(1.0).wait()
        if self._channel is not None:
            self._channel.close()

    def _export(self, service: str, keep: Callable[[bytes], None]) -> Callable[[bytes, Any], bytes]:
        """Refuses what the collector refuses, with its words."""
        forward: Any = self._channel.unary_unary(f"/{service}/Export") if self._channel else None

        def export(request: bytes, context: Any) -> bytes:
            answer = b""
            if forward is not None:
                try:
                    answer = forward(request, timeout=_FORWARD_S)
                except grpc.RpcError as error:
                    context.abort(error.code(), error.details())
            keep(request)
            return answer

        return export

    def _keep_spans(self, request: bytes) -> None:
        with self._lock:
            self._spans += _spans(trace_service_pb2.ExportTraceServiceRequest.FromString(request))

    def _keep_points(self, request: bytes) -> None:
        if self._metrics_to is not None:
            self._metrics_to(request)
        with self._lock:
            for point in _points(metrics_service_pb2.ExportMetricsServiceRequest.FromString(request)):
                key = (point.service, point.name, frozenset(point.attributes.items()))
                earlier = self._points[key].exemplars if key in self._points else frozenset()
                self._points[key] = replace(point, exemplars=point.exemplars | earlier)


def _spans(request: trace_service_pb2.ExportTraceServiceRequest) -> Iterator[Span]:
    for told in request.resource_spans:
        service = texts(told.resource.attributes)["service.name"]
        for scope in told.scope_spans:
            for span in scope.spans:
                links = frozenset(link.trace_id.hex() for link in span.links)
                ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
                yield Span(service, span.name, *ids, links, texts(span.attributes))


def _points(request: metrics_service_pb2.ExportMetricsServiceRequest) -> Iterator[Point]:
    for told in request.resource_metrics:
        service = texts(told.resource.attributes)["service.name"]
        for scope in told.scope_metrics:
            for metric in scope.metrics:
                for point in getattr(metric, metric.WhichOneof("data") or "gauge").data_points:
                    counted = metric.HasField("histogram")
                    value = float(point.count) if counted else point.as_double or float(point.as_int)
                    exemplars = frozenset(exemplar.trace_id.hex() for exemplar in point.exemplars)
                    yield Point(service, metric.name, metric.unit, texts(point.attributes), value, exemplars)


def texts(attributes: Any) -> dict[str, str]:
    """Picks OTLP attributes that are texts."""
    return {
        attribute.key: attribute.value.string_value
        for attribute in attributes
        if attribute.value.HasField("string_value")
    }
