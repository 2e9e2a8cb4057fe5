"""Pace of a member's batches: full ones at once, others at a distance, the first after a pause at once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from penstock.runtime.kafka import group
from penstock.runtime.kafka.group import TOGETHER_S
from penstock.runtime.kafka.streams import TransactionalStream
from penstock.runtime.settings import KafkaSettings


def test_a_batch_waits_for_its_distance_to_the_last_and_none_after_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, waited = [100.0], list[float]()

    def consume(_most: int, timeout: float) -> list[object]:
        waited.append(timeout)
        now[0] += timeout
        return []

    monkeypatch.setattr(group, "time", SimpleNamespace(monotonic=lambda: now[0]))
    stream = TransactionalStream(KafkaSettings(), group="g", replica="0", linger_s=0.5)
    monkeypatch.setattr(stream, "_client", SimpleNamespace(consume=consume), raising=False)
    for work, pause in ((0.1, 0.0), (0.3, 0.0), (0.1, 30.0), (0.0, 0.0)):
        stream._more()
        stream._worked_s = work
        now[0] += work + pause
    assert waited == pytest.approx([TOGETHER_S, 0.4, 0.3, 0.1]), "0.3: as long as the last one's work"
