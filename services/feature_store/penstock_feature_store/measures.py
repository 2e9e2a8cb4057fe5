"""Metrics of the feature store: gauges of the lake and of rows that wait to go online, read when
they are exported; reads and steps, recorded as they happen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from penstock.contracts import metrics
from penstock.feature_store.v1 import feature_store_pb2 as pb
from penstock.runtime.metrics import Read, counter, histogram
from penstock_feature_store.online.writer import behind
from penstock_feature_store.pipelines import Owned, Pipelines

_READS = histogram(metrics.ONLINE_READS)
_ENTITIES = counter(metrics.ONLINE_ENTITIES)
_AGE = histogram(metrics.ONLINE_AGE)


def readings(pipelines: Pipelines) -> dict[metrics.Metric, Read]:
    """Gauges of the replica that owns the lake; a replica that stands by reports none."""

    def of_each(figure: Callable[[Owned, str], int]) -> Read:
        return lambda: [
            (float(figure(held, source)), {"pipeline": held.pipeline.pipeline, "source": source})
            for held in pipelines.all()
            for source in held.lakes
        ]

    return {
        metrics.LAKE_ROWS: of_each(lambda held, source: held.lakes[source].count()),
        metrics.LAKE_FILES: of_each(lambda held, source: held.lakes[source].file_count()),
        metrics.ONLINE_BEHIND: of_each(behind),
    }


def read(pipeline: str, seconds: float, entities: Sequence[pb.EntityFeatures]) -> None:
    """One call for online features, answered."""
    _READS.record(seconds, {"pipeline": pipeline})
    now = datetime.now(UTC).timestamp()
    for status, count in Counter(entity.status for entity in entities).items():
        _ENTITIES.add(
            count,
            {
                "pipeline": pipeline,
                "status": pb.EntityFeatures.Status.Name(status).removeprefix("STATUS_").lower(),
            },
        )
    for entity in entities:
        if entity.HasField("time"):
            _AGE.record(max(0.0, now - entity.time.seconds), {"pipeline": pipeline})
