"""A rolling restart: every program but Kafka, of which there is only one here, is restarted, one
after the other, under load.

Events at 200/s, predictions at 100/s by clients that retry as the client library does.
"""

import time

import pytest
from census import Served
from load import under_load

from penstock.testing.compose import SERVICES, ComposeUnderTest

pytestmark = pytest.mark.compose

ALL_BUT_KAFKA = ("redis", "postgres", "triton", "gateway", "envoy", *SERVICES)


def test_a_rolling_restart_fails_no_prediction_and_loses_no_event(
    served_by_compose: Served, compose: ComposeUnderTest
) -> None:
    with under_load(served_by_compose, "rolled", patient=True) as (published, load):
        began, events, predictions = time.monotonic(), len(published.sent), len(load.answered)
        for service in ALL_BUT_KAFKA:
            compose.roll(service)
        seconds = time.monotonic() - began
        rates = (len(published.sent) - events) / seconds, (len(load.answered) - predictions) / seconds
    print(f"\nin {seconds:.0f} s {rates[0]:.0f} events/s and {rates[1]:.0f} predictions/s")
    assert rates[0] > 190
    assert rates[1] > 90
    assert load.failed == {}
    assert published.failed == {}
