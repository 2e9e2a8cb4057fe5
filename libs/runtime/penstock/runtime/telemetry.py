"""OpenTelemetry: traces and metrics by OTLP when `OTEL_EXPORTER_OTLP_ENDPOINT` is set.

Else spans go to a bounded file under `$PENSTOCK_HOME/traces`, and metrics nowhere. Context crosses
Kafka in the `traceparent` header and gRPC in its metadata (W3C Trace Context).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from penstock.runtime.metrics import export_by
from penstock.runtime.settings import OpenTelemetry

EXPORT_S = 4  # for one export; so much later a process ends while the collector is away
_tracer = trace.get_tracer("penstock")
_PROPAGATOR = TraceContextTextMapPropagator()
_MAX_BYTES = 16 << 20


class FileSpanExporter(SpanExporter):
    """Writes a JSON object a line; at 16 MiB the file becomes `.1` and the older one goes. Several
    processes may write to one file.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """May block for a write; a span that cannot be written is lost, tracing is help."""
        try:
            if self._path.exists() and self._path.stat().st_size > _MAX_BYTES:
                self._path.replace(self._path.with_suffix(".jsonl.1"))
            lines = "".join(f"{span.to_json(indent=None)}\n" for span in spans)
            with self._path.open("ab", buffering=0) as opened:
                opened.write(lines.encode())  # one write, so that no other's comes into a line
        except OSError:
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS


def configure_telemetry(service: str, traces: Path, *, replica: str | None = None) -> Callable[[], None]:
    """Once a process. What it returns ends it: flushes, and gives up on a collector that is away
    after some seconds.

    `replica`: names the process among the service's; without it, as in a job's process, there are
    spans and no metrics.
    """
    settings = OpenTelemetry()
    about = {SERVICE_NAME: f"penstock.{service}", SERVICE_VERSION: metadata.version("penstock-runtime")}
    resource = Resource.create(about | ({SERVICE_INSTANCE_ID: replica} if replica is not None else {}))
    if settings.exporter_otlp_endpoint:
        # A second of import that files do not need.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        exporter: SpanExporter = OTLPSpanExporter(timeout=EXPORT_S)
    else:
        exporter = FileSpanExporter(traces / f"{service}.jsonl")
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(tracers)
    ends = contextlib.ExitStack()
    ends.callback(tracers.shutdown)
    if replica is not None and settings.exporter_otlp_endpoint:
        ends.callback(_export_metrics(settings, resource))
    return ends.close


def _export_metrics(settings: OpenTelemetry, resource: Resource) -> Callable[[], None]:
    # Histograms carry the trace ids of sampled spans as exemplars.
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider, TraceBasedExemplarFilter
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    exporter = OTLPMetricExporter(timeout=EXPORT_S)
    reader = PeriodicExportingMetricReader(exporter, settings.metric_export_interval, EXPORT_S * 1000)
    provider = MeterProvider([reader], resource, TraceBasedExemplarFilter(), shutdown_on_exit=False)
    export_by(provider)
    return lambda: provider.shutdown(timeout_millis=EXPORT_S * 1000)


def current_traceparent() -> str | None:
    """The current span as a `traceparent` header, or None outside any span."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get("traceparent")


def context_of(headers: Mapping[str, str]) -> otel_context.Context:
    """The context that a message's headers carry."""
    return _PROPAGATOR.extract(headers)


@contextlib.contextmanager
def span(name: str, context: otel_context.Context | None = None, **attributes: str | int) -> Iterator[None]:
    """A span for what happens inside: a child of `context`'s, else of the one that is open, else
    the beginning of a trace.
    """
    with _tracer.start_as_current_span(name, context=context, attributes=attributes):
        yield


@contextlib.contextmanager
def within(context: otel_context.Context) -> Iterator[None]:
    """Puts the block into `context`: log lines, metrics, events that are published."""
    token = otel_context.attach(context)
    try:
        yield
    finally:
        otel_context.detach(token)
