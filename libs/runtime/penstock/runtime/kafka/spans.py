"""One span per batch with links to the events' own traces, not one span per event."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanContext, TraceFlags

from penstock.runtime.kafka.messages import Batch

MAX_LINKS = 100
"""Links to distinct traces; a batch may hold thousands of events. OpenTelemetry's limit is 128."""

_tracer = trace.get_tracer("penstock.stream")


@contextmanager
def batch_span(verb: str, batches: Sequence[Batch]) -> Iterator[Span]:
    topics = sorted({batch.partition.topic for batch in batches})
    attributes: dict[str, str | int] = {
        "messaging.system": "kafka",
        "messaging.destination.name": ",".join(topics),
        "messaging.batch.message_count": sum(len(batch.messages) for batch in batches),
    }
    if len(batches) == 1:
        attributes["messaging.destination.partition.id"] = str(batches[0].partition.number)
        attributes["messaging.kafka.offset"] = batches[0].messages[0].offset
    with linked_span(
        f"{verb} {topics[0]}" if len(topics) == 1 else verb, _traceparents(batches), attributes
    ) as span:
        yield span


@contextmanager
def linked_span(
    name: str, traceparents: Iterable[bytes], attributes: Mapping[str, str | int]
) -> Iterator[Span]:
    """A span with links to the first hundred distinct traces."""
    distinct = itertools.islice(dict.fromkeys(traceparents), MAX_LINKS)
    links = [Link(context) for context in map(parse_traceparent, distinct) if context is not None]
    with _tracer.start_as_current_span(name, links=links, attributes=attributes) as span:
        yield span


def _traceparents(batches: Sequence[Batch]) -> Iterator[bytes]:
    """Yields the traceparents of as many messages as it takes."""
    seen: set[bytes] = set()
    for batch in batches:
        for message in batch.messages:
            if message.headers and (traceparent := message.header("traceparent")):
                seen.add(traceparent)
                if len(seen) > MAX_LINKS:
                    return
                yield traceparent


def parse_traceparent(header: bytes) -> SpanContext | None:
    """W3C Trace Context, version 00; None where it is not one."""
    parts = header.split(b"-")
    try:
        if len(parts) < 4 or len(parts[1]) != 32 or len(parts[2]) != 16:
            return None
        context = SpanContext(
            int(parts[1], 16), int(parts[2], 16), is_remote=True, trace_flags=TraceFlags(int(parts[3], 16))
        )
    except ValueError:
        return None
    return context if context.is_valid else None
