"""Readings of the lake that this replica owns: facts for `penstock status`, values for the metrics.
A replica that stands by has none.
"""

from __future__ import annotations

from collections.abc import Callable

from penstock.contracts.errors import Unavailable
from penstock.contracts.metrics import LAKE_FILES, LAKE_ROWS, ONLINE_BEHIND
from penstock.runtime.metrics import Read, Readings
from penstock.runtime.status import Facts
from penstock_feature_store.online.writer import behind
from penstock_feature_store.pipelines import Owned, Pipelines


def facts(pipelines: Pipelines) -> Callable[[], Facts]:
    def fact(held: Owned) -> str:
        rows = sum(lake.count() for lake in held.lakes.values())
        try:
            waiting = sum(behind(held, source) for source in held.lakes)
        except Unavailable:  # the online store's own watch tells it
            waiting = 0
        return f"{held.pipeline.pipeline} {rows:,} rows" + (
            f", {waiting:,} not online yet" if waiting else ""
        )

    return lambda: {held.pipeline.pipeline: fact(held) for held in pipelines.all()}


def metrics(pipelines: Pipelines) -> Readings:
    def of_each(figure: Callable[[Owned, str], int]) -> Read:
        return lambda: [
            (float(figure(held, source)), {"pipeline": held.pipeline.pipeline, "source": source})
            for held in pipelines.all()
            for source in held.lakes
        ]

    return {
        LAKE_ROWS: of_each(lambda held, source: held.lakes[source].count()),
        LAKE_FILES: of_each(lambda held, source: held.lakes[source].file_count()),
        ONLINE_BEHIND: of_each(behind),
    }
