"""Measurements of Kafka in both planes, by OpenTelemetry's semantic conventions for messaging."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

from penstock.contracts import metrics
from penstock.runtime.metrics import Reading, counter, histogram

_CONSUMED = counter(metrics.CONSUMED)
_PROCESSED = histogram(metrics.PROCESSED)
_SENT = counter(metrics.SENT)

_SYSTEM = "messaging.system"
_OPERATION = "messaging.operation.name"
DESTINATION = "messaging.destination.name"  # a topic's name in the catalogue, without the prefix
GROUP = "messaging.consumer.group.name"


@contextlib.contextmanager
def processing(topic: str, group: str, verb: str = "process", messages: int = 1) -> Iterator[None]:
    """Work on messages of a topic: how many, and how long it took, however it ends. Inside the span
    that it belongs to.
    """
    attributes = {_SYSTEM: "kafka", _OPERATION: verb, DESTINATION: topic, GROUP: group}
    _CONSUMED.add(messages, attributes)
    began = time.perf_counter()
    try:
        yield
    finally:
        _PROCESSED.record(time.perf_counter() - began, attributes)


def sent(topic: str, messages: int = 1) -> None:
    """Messages were given to the producer."""
    _SENT.add(messages, {_SYSTEM: "kafka", _OPERATION: "send", DESTINATION: topic})


def lag_readings(group: str, lags: Mapping[str, int]) -> list[Reading]:
    """Messages before the group, by topic, as readings of `metrics.LAG`."""
    return [(float(lag), {DESTINATION: topic, GROUP: group}) for topic, lag in lags.items()]
