"""A span per batch with links to the events' own traces, not one span per event."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanContext

from penstock.runtime.kafka.messages import Batch
from penstock.runtime.telemetry import context_of

# Links to distinct traces; a batch may hold thousands of events. OpenTelemetry's limit is 128.
MAX_LINKS = 100

_tracer = trace.get_tracer("penstock.stream")


def batch_span(verb: str, batches: Sequence[Batch]) -> AbstractContextManager[Span]:
    """A span for the work on batches of one or several topics."""
    topics = sorted({batch.partition.topic for batch in batches})
    attributes: dict[str, str | int] = {
        "messaging.system": "kafka",
        "messaging.destination.name": ",".join(topics),
        "messaging.batch.message_count": sum(len(batch.messages) for batch in batches),
    }
    if len(batches) == 1:
        attributes["messaging.destination.partition.id"] = str(batches[0].partition.number)
        if batches[0].messages:
            attributes["messaging.kafka.offset"] = batches[0].messages[0].offset
    traceparents = (
        traceparent
        for batch in batches
        for message in batch.messages
        if message.headers and (traceparent := message.header("traceparent"))
    )
    return linked_span(f"{verb} {topics[0]}" if len(topics) == 1 else verb, traceparents, attributes)


def linked_span(
    name: str, traceparents: Iterable[bytes], attributes: Mapping[str, str | int]
) -> AbstractContextManager[Span]:
    """A span with links to the first hundred distinct traces."""
    distinct: set[bytes] = set()
    for traceparent in traceparents:
        distinct.add(traceparent)
        if len(distinct) == MAX_LINKS:
            break
    links = [Link(context) for context in map(_span_context, distinct) if context.is_valid]
    return _tracer.start_as_current_span(name, links=links, attributes=attributes)


def _span_context(traceparent: bytes) -> SpanContext:
    """Context by W3C Trace Context; an invalid one where the header is none."""
    context = context_of({"traceparent": traceparent.decode("ascii", "replace")})
    return trace.get_current_span(context).get_span_context()
