"""Kafka stands still for a while and is fenced: everybody finds it again by itself. librdkafka drops
every broker that it knows upon an answer that names none, which a broker just unfenced may give.
"""

from __future__ import annotations

import os
import signal
import time

import pytest
from census import Served, pipeline_text

from penstock.testing.stack import StackUnderTest
from penstock.testing.wait import until
from penstock.trainer.v1 import trainer_pb2 as trainer

pytestmark = pytest.mark.stack("failures")

WITHIN_S = 60.0


@pytest.mark.parametrize(
    "seconds", [pytest.param(3, marks=pytest.mark.slow), 10, pytest.param(30, marks=pytest.mark.slow)]
)
def test_a_frozen_kafka_is_found_again_by_everybody(
    served: Served, stack: StackUnderTest, seconds: int
) -> None:
    name = f"frozen-{seconds}"
    served.client.pipelines.apply(pipeline_text(name, gates="[]", epochs=1, compare="none"), by="test")
    served.journey.publish(name, "people", served.events[:1000])
    kafka = stack.pid("kafka")
    os.kill(kafka, signal.SIGSTOP)
    try:
        time.sleep(seconds)  # the standstill
    finally:
        os.kill(kafka, signal.SIGCONT)
    awake = time.monotonic()
    stack.ready(within=WITHIN_S)
    served.journey.publish(name, "people", served.events[1000:2000])
    run = served.client.runs.create(name, after=served.client.events.end_offsets(name), by="test")
    until(
        lambda: served.client.runs.get(run.run_id).state != trainer.Run.STATE_REQUESTED,
        within=WITHIN_S - (time.monotonic() - awake),
        what="the run has begun",
    )
    assert served.journey.ended(run.run_id).state == trainer.Run.STATE_COMPLETED
    assert served.client.events.counts(name, "people").records == 2000
