"""Records of predictions as they are shown: nothing of who is erased, in no form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import cast

from google.protobuf.timestamp_pb2 import Timestamp

from penstock.client.features import Features
from penstock.contracts.dataplane import Prediction
from penstock.contracts.errors import NotFound
from penstock.feature_store.v1 import feature_store_pb2 as features

Behind = Mapping[str, Sequence[features.Record]]
"""Events behind a prediction that are still there, by source."""

_ALWAYS_THERE = ("inputs", "probabilities", "values", "decisions", "events")
_WHERE_GIVEN = ("intervals", "warnings", "confidence")


def behind(record: Prediction, store: Features) -> Behind:
    """Looks up the events that a prediction by entity was asked with: what ingest published later, under
    the id of one that is gone, is somebody else's. Raises Unavailable.
    """
    asked = Timestamp()
    with suppress(ValueError):  # a time that is none: nothing is known to be older
        asked.FromJsonString(record["time"])
    found = {}
    for source, event in (record.get("events") or {}).items():
        with suppress(NotFound):  # a source that the pipeline has no more
            kept = store.records(record["pipeline"], source, id=event)
            if older := [one for one in kept if one.ingested.ToNanoseconds() <= asked.ToNanoseconds()]:
                found[source] = older
    return found


def shown(record: Prediction, found: Behind) -> Prediction:
    """The record, without inputs and answer where an event behind it is gone: Kafka keeps it for
    `serving.record_retention`, and who asks for a prediction is not to read of a person who is erased.
    """
    gone = [source for source in record.get("events") or {} if source not in found]
    if not gone:
        return record
    why = (
        f"an event of source {', '.join(gone)} behind it is no more, erased or older than the source's"
        " `retention`"
    )
    left = {name: value for name, value in record.items() if name not in _WHERE_GIVEN}
    return cast(Prediction, {**left, **dict.fromkeys(_ALWAYS_THERE), "undecoded": why})
