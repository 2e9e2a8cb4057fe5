"""Instruments of the catalogue, in one process with a reader of its own."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from opentelemetry import metrics as otel
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from penstock.contracts.metrics import CATALOGUE, JOBS, LAG, UPTIME, Metric
from penstock.runtime.messaging import processing
from penstock.runtime.metrics import counter, histogram, observed

WITHIN_S = 15.0


@pytest.fixture(scope="module")
def reader() -> InMemoryMetricReader:
    """A process has one provider; what is measured elsewhere in it is read here too."""
    reader = InMemoryMetricReader()
    otel.set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
    return reader


def read(reader: InMemoryMetricReader, metric: Metric) -> list[Any]:
    data = reader.get_metrics_data()
    found = (
        [
            one
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for one in scope.metrics
        ]
        if data
        else []
    )
    return [point for one in found if one.name == metric.name for point in one.data.data_points]


def values(reader: InMemoryMetricReader, metric: Metric) -> dict[frozenset[tuple[str, str]], float]:
    return {frozenset(point.attributes.items()): point.value for point in read(reader, metric)}


def test_readers_of_one_metric_add_up_and_leave(reader: InMemoryMetricReader) -> None:
    queued, running = {"kind": "a", "state": "queued"}, {"kind": "a", "state": "running"}
    with observed(JOBS, lambda: [(2, queued), (1, running)]):
        with observed(JOBS, lambda: [(3, queued)]):
            assert values(reader, JOBS) == {frozenset(queued.items()): 5, frozenset(running.items()): 1}
        assert values(reader, JOBS)[frozenset(queued.items())] == 2
    assert values(reader, JOBS) == {}
    with observed(JOBS, lambda: [(7, queued)]):
        assert values(reader, JOBS) == {frozenset(queued.items()): 7}


def test_a_reader_that_fails_takes_no_other_with_it(reader: InMemoryMetricReader) -> None:
    def fails() -> list[Any]:
        raise OSError("away")

    with observed(UPTIME, fails), observed(UPTIME, lambda: [(1.5, {})]):
        assert list(values(reader, UPTIME).values()) == [1.5]


def test_observing_while_it_is_exported_ends(reader: InMemoryMetricReader) -> None:
    """The exporter's thread holds the meter and asks the readers; who begins to observe needs both
    the other way round.
    """
    stop = threading.Event()

    def export() -> None:
        while not stop.is_set():
            reader.get_metrics_data()

    def observe() -> None:
        with observed(LAG, lambda: [(0, {})]):
            for number in range(2_000):
                with observed(
                    Metric(f"test.gauge.{number}", "gauge", "{thing}", "One of many."), lambda: [(1, {})]
                ):
                    pass

    exporting, observing = (
        threading.Thread(target=export, daemon=True),
        threading.Thread(target=observe, daemon=True),
    )
    exporting.start()
    observing.start()
    observing.join(WITHIN_S)
    stop.set()
    assert not observing.is_alive()
    exporting.join(WITHIN_S)
    assert not exporting.is_alive()


def test_work_is_measured_however_it_ends(reader: InMemoryMetricReader) -> None:
    from penstock.contracts.metrics import CONSUMED, PROCESSED

    with pytest.raises(ZeroDivisionError), processing("people.v1", "penstock.test", messages=3):
        raise ZeroDivisionError
    mine = {"messaging.destination.name": "people.v1", "messaging.consumer.group.name": "penstock.test"}
    (consumed,) = [point for point in read(reader, CONSUMED) if point.attributes.items() >= mine.items()]
    (processed,) = [point for point in read(reader, PROCESSED) if point.attributes.items() >= mine.items()]
    assert (consumed.value, processed.count) == (3, 1)
    assert processed.explicit_bounds == PROCESSED.buckets


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_every_metric_of_the_catalogue_is_made_as_it_says(
    reader: InMemoryMetricReader, metric: Metric
) -> None:
    value, attributes = 1.0, dict.fromkeys(metric.attributes, "x")
    if metric.kind == "histogram":
        histogram(metric).record(value, attributes)
    elif metric.kind == "counter" and metric.unit != "s":
        counter(metric).add(1, attributes)
    else:
        with observed(metric, lambda: [(value, attributes)]):
            assert any(set(point.attributes) == set(metric.attributes) for point in read(reader, metric))
        return
    assert any(set(point.attributes) == set(metric.attributes) for point in read(reader, metric))
