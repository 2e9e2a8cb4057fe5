"""Instruments of the catalogue (`penstock.contracts.metrics`). Without OTLP they do nothing, and
nobody is asked for a reading.

_EVENTS = counter(metrics.EVENTS)                          # at import, like a logger
_EVENTS.add(3, {"pipeline": …, "source": …, "outcome": "record"})

with observed(metrics.OUTBOX, self._waiting): ...          # read at each export, while inside
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping

import structlog
from opentelemetry import metrics as otel
from opentelemetry.metrics import CallbackOptions, Counter, Histogram, MeterProvider, Observation

from penstock.contracts.metrics import Metric

log = structlog.get_logger(__name__)

Attributes = Mapping[str, str]
Reading = tuple[float, Attributes]
Read = Callable[[], Iterable[Reading]]
Readings = Mapping[Metric, Read]

_meter = otel.get_meter("penstock")
_lock = threading.Lock()
_readers: dict[str, list[Read]] = {}
_exported = threading.Event()


def export_by(provider: MeterProvider) -> None:
    """Has everything recorded from now on be exported. Once a process."""
    otel.set_meter_provider(provider)
    _exported.set()


def exported() -> bool:
    """Tells whether anybody reads what is recorded, for what takes longer to find out than to record."""
    return _exported.is_set()


def counter(metric: Metric) -> Counter:
    return _meter.create_counter(metric.name, metric.unit, metric.about)


def histogram(metric: Metric) -> Histogram:
    """Histogram whose values, recorded within a sampled span, carry its trace id as an exemplar."""
    return _meter.create_histogram(
        metric.name, metric.unit, metric.about, explicit_bucket_boundaries_advisory=metric.buckets or None
    )


@contextlib.contextmanager
def observed(metric: Metric, read: Read) -> Iterator[None]:
    """While inside, `read` is asked at each export for the value of every set of attributes;
    several readers of one metric add up.

    Called in the exporter's thread: it may take milliseconds, not wait for a peer. What it raises
    is logged, and its values are left out.
    """
    with _lock:
        new = metric.name not in _readers
        readers = _readers.setdefault(metric.name, [])
        readers.append(read)
    if new:  # without the lock: the exporter's thread takes it while it holds the meter's
        _create(metric, readers)
    try:
        yield
    finally:
        with _lock:
            readers.remove(read)


def _create(metric: Metric, readers: list[Read]) -> None:
    # Once a process: a meter keeps the first of a name, and asks it alone.
    def ask(_options: CallbackOptions) -> Iterable[Observation]:
        found: dict[tuple[tuple[str, str], ...], float] = {}
        with _lock:
            asked = list(readers)
        for read in asked:
            try:
                for value, attributes in read():
                    key = tuple(sorted(attributes.items()))
                    found[key] = found.get(key, 0.0) + value
            except Exception as error:
                log.warning("metric_not_read", metric=metric.name, why=f"{type(error).__name__}: {error}")
        return [Observation(value, dict(key)) for key, value in found.items()]

    create = {
        "counter": _meter.create_observable_counter,
        "updowncounter": _meter.create_observable_up_down_counter,
        "gauge": _meter.create_observable_gauge,
    }[metric.kind]
    create(metric.name, [ask], metric.unit, metric.about)
