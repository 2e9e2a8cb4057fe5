"""OpenTelemetry: OTLP when `OTEL_EXPORTER_OTLP_ENDPOINT` is set, else spans go to a bounded file under `$PENSTOCK_HOME/traces`.

Context crosses Kafka in the `traceparent` header and gRPC in its metadata (W3C Trace Context).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_PROPAGATOR = TraceContextTextMapPropagator()
_MAX_BYTES = 16 << 20


class FileSpanExporter(SpanExporter):
    """One JSON object a line; at 16 MiB the file becomes `.1` and the older one goes."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """May block for a write; a span that cannot be written is lost, tracing is help."""
        try:
            if self._path.exists() and self._path.stat().st_size > _MAX_BYTES:
                self._path.replace(self._path.with_suffix(".jsonl.1"))
            with self._path.open("a") as opened:
                opened.writelines(f"{span.to_json(indent=None)}\n" for span in spans)
        except OSError:
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS


def configure_telemetry(service: str, traces: Path) -> TracerProvider:
    """Once a process. The caller shuts the provider down, which flushes it."""
    exporter: SpanExporter
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # a second of import that files do not need

        exporter = OTLPSpanExporter()
    else:
        exporter = FileSpanExporter(traces / f"{service}.jsonl")
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: f"penstock.{service}"}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return provider


def current_traceparent() -> str | None:
    """The current span as a `traceparent` header, or None outside any span."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get("traceparent")


def context_of(headers: Mapping[str, str]) -> otel_context.Context:
    """The context that a message's headers carry."""
    return _PROPAGATOR.extract(headers)
