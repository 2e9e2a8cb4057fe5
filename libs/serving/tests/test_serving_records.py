"""A record that is too long for a topic goes without all that was asked and answered."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
import pytest

from penstock.contracts.dataplane import Prediction
from penstock.contracts.topics import MESSAGE_BYTES
from penstock.serving.records import encoded

LONG = 60_000  # rows


@pytest.mark.parametrize(
    "said",
    [
        {"inputs": {"amount": [1234.56789012345] * LONG}},
        {"probabilities": [[0.123456789, 0.876543211]] * LONG},
        {"values": [1234.56789012345] * LONG},
        {"values": [1.0], "intervals": [[0.123456789, 0.876543211]] * LONG},
        {"decisions": ["a decision of some length"] * LONG},
        {"confidence": [0.123456789012345678] * LONG},
        {"warnings": ["`amount` lies outside of what training saw"] * LONG},
    ],
    ids=lambda said: [*said][-1],
)
def test_a_record_that_is_too_long_goes_without(said: Mapping[str, object]) -> None:
    length = len(orjson.dumps(prediction() | said))
    assert length > MESSAGE_BYTES
    value = encoded({**prediction(), **said})  # type: ignore[typeddict-item]
    assert orjson.loads(value) == prediction() | {"undecoded": f"a record of {length} bytes is not kept"}


def prediction() -> Prediction:
    return Prediction(
        id="p1",
        pipeline="loans",
        digest="d",
        generation=1,
        time="2026-01-31T12:00:00Z",
        milliseconds=1.5,
        protocol="grpc",
        status="OK",
        traceparent=None,
        rows=LONG,
        inputs=None,
        probabilities=None,
        values=None,
        decisions=None,
        undecoded=None,
    )
