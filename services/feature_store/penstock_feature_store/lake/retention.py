"""Rows leave the lake and the online store when their source's `retention` is over, counted from
when ingest published them.

As Kafka counts for the topics: an event from ten years ago that is published today stays as long as
any other. Training sets keep theirs: they go when their model does.
"""

from __future__ import annotations

from datetime import datetime

import structlog

from penstock_feature_store.pipelines import Owned

log = structlog.get_logger(__name__)


def expire(held: Owned, now: datetime) -> int:
    """Rows that left the lake. Blocking; the caller holds the pipeline's gate. Raises Unavailable
    where the online store is away: what is left there leaves the next time.
    """
    name, gone = held.pipeline.pipeline, 0
    for source, declared in held.pipeline.sources.items():
        before = now - declared.retention
        with held.online:
            rows = held.lakes[source].expire(before)
            values = held.writer.expire(source, before)
        if rows or values:
            log.info("rows_expired", pipeline=name, source=source, lake_rows=rows, online_values=values)
        gone += rows
    return gone
