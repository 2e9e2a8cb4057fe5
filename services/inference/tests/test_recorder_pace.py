"""Looks of the recorder at the log: more rarely when predictions come fast."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from penstock.runtime.kafka.messages import Produced
from penstock.serving.model import Layout
from penstock_inference.door.door import LOG_FILE
from penstock_inference.record.publisher import Publisher
from penstock_inference.record.recorder import BUSY_FROM, Recorder
from penstock_inference.record.spool import Position

Make = Callable[..., Any]


class Published(Publisher):
    """Publisher without Kafka: keeps how many predictions each of its transactions held."""

    def __init__(self) -> None:
        self.position, self.committed_at = None, time.monotonic()
        self.counts: list[int] = []

    def has_topic(self, pipeline: str) -> bool:
        return True

    def publish(self, messages: Sequence[Produced], position: Position) -> None:
        self.counts.append(len(messages))
        self.position = position


class Waits(threading.Event):
    """Stop that takes no time to wait: lines come meanwhile, and it is set when none are left."""

    def __init__(self, come: Sequence[Callable[[], Any]]) -> None:
        super().__init__()
        self.asked: list[float] = []
        self._come = list(come)

    def wait(self, timeout: float | None = None) -> bool:
        self.asked.append(timeout or 0.0)
        if self._come:
            self._come.pop(0)()
        else:
            self.set()
        return self.is_set()


@pytest.fixture
def predicted(
    tmp_path: Path, line: Make, framed: Make, grpc_request: Make, grpc_response: Make
) -> Callable[[int], None]:
    """Appends this many predictions to the log."""
    request = framed(grpc_request([[41.0, 1.0]], [["car", "true"]]).SerializeToString())
    response = framed(grpc_response([[0.25, 0.75]], ["yes"]).SerializeToString())
    one = line(request, response) + b"\n"

    def append(count: int) -> None:
        with (tmp_path / LOG_FILE).open("ab") as log:
            log.write(one * count)

    return append


def test_predictions_that_come_fast_are_gathered_for_longer(
    tmp_path: Path, predicted: Callable[[int], None], layouts: Callable[[str, int | None], Layout | None]
) -> None:
    """Three transactions a second and more took 3 % of the processor time of a call."""
    published = Published()
    counts = [1, BUSY_FROM, 5 * BUSY_FROM, 1, 0]
    stop = Waits([partial(predicted, count) for count in counts])
    recorder = Recorder(
        tmp_path,
        lambda: published,
        layouts=layouts,
        ensure_topic=lambda pipeline: None,
        tidy=lambda tail, position: None,
    )
    recorder.run(stop)
    assert published.counts == [count for count in counts if count]
    nothing, few, many, more, few_again, none = stop.asked
    assert nothing == few == few_again == none
    assert many == more >= 2 * few
    assert many < 1.0  # a record appears within a second
