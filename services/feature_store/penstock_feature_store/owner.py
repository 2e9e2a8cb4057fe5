"""Work of the replica that owns the lake: begins when ownership is taken, ends with the service."""

from __future__ import annotations

import asyncio
import threading
from datetime import datetime

import structlog

from penstock.contracts.errors import Unavailable
from penstock.runtime.lifecycle import Service
from penstock.runtime.store import Store
from penstock_feature_store.erasure import Erasures
from penstock_feature_store.lake.arrivals import Arrivals
from penstock_feature_store.lake.lake import Lake
from penstock_feature_store.lake.records import Records
from penstock_feature_store.online.writer import OnlineWriter
from penstock_feature_store.pipelines import Owned, Pipelines, apart
from penstock_feature_store.training.sets import TrainingSets
from penstock_feature_store.training.trigger import request_if_due

log = structlog.get_logger(__name__)

LOOK_AGAIN_S = 0.5
TRIGGER_EVERY_S = 10.0  # besides after every arrival: another replica may have heard of a run's end
RETENTION_EVERY_S = 3600.0
ERASE_AGAIN_S = 10.0


class OwnerRole:
    """Work that only one replica may do: records into the lake and online, merging, the trigger,
    retention, interrupted erasures.
    """

    def __init__(
        self,
        service: Service,
        store: Store,
        lake: Lake,
        arrivals: Arrivals,
        records: Records,
        pipelines: Pipelines,
    ) -> None:
        self._service = service
        self._store = store
        self._lake = lake
        self._arrivals = arrivals
        self._records = records
        self._pipelines = pipelines
        self.online = OnlineWriter(pipelines, arrivals, records.letters.put_all)

    async def begin(self, erasures: Erasures, sets: TrainingSets) -> None:
        """Ends what the last owner left unfinished, then starts the work."""
        service = self._service
        await asyncio.to_thread(erasures.resume)
        await sets.forget_unfinished()
        await asyncio.to_thread(self._pipelines.own)
        service.background("trigger", self._request_runs)
        service.background("retention", self._expire_rows)
        service.background("erasures", lambda: self._erase_again(erasures))
        service.thread("online", self.online.run)
        service.thread("merge", self._merge)
        service.stream("records", self._records.stream.run)

    def _merge(self, stop: threading.Event) -> None:
        while not stop.is_set():
            count = self._arrivals.count
            for source in self._lake.opened():
                with apart("merge", source=str(source.folder)):
                    source.merge()
            while self._arrivals.count == count and not stop.is_set():
                self._arrivals.wait_blocking(count, LOOK_AGAIN_S)

    async def _request_runs(self) -> None:
        while True:
            count = self._arrivals.count
            for held in self._pipelines.all():
                with apart("trigger", pipeline=held.pipeline.pipeline):
                    await request_if_due(self._store, held, self._service.clock)
            await self._arrivals.wait(count, TRIGGER_EVERY_S)

    async def _expire_rows(self) -> None:
        while True:
            await asyncio.sleep(RETENTION_EVERY_S)
            for held in self._pipelines.all():
                try:
                    with apart("retention", pipeline=held.pipeline.pipeline):
                        for source in held.lakes:
                            await held.alone(_expire, held, source, self._service.clock())
                except Unavailable as error:  # what is left online leaves the next time
                    log.warning("retention_waits", pipeline=held.pipeline.pipeline, why=str(error))

    async def _erase_again(self, erasures: Erasures) -> None:
        while True:
            await asyncio.sleep(ERASE_AGAIN_S)
            await asyncio.to_thread(self._pipelines.delete_again)
            for path, name in await asyncio.to_thread(erasures.begun):
                for held in self._pipelines.all():
                    if held.pipeline.pipeline == name:
                        with apart("erasure", pipeline=name):
                            await held.alone(erasures.finish, path)


def _expire(held: Owned, source: str, now: datetime) -> None:
    """Rows leave the lake and the online store when their source's `retention` is over, counted from
    when ingest published them.

    As Kafka counts for the topics: an event from ten years ago that is published today stays as
    long as any other. Training sets keep theirs: they go when their model does.
    """
    before = now - held.pipeline.sources[source].retention
    rows = held.lakes[source].expire(before)
    values = held.writer.expire(source, before)
    if rows or values:
        log.info(
            "rows_expired",
            pipeline=held.pipeline.pipeline,
            source=source,
            lake_rows=rows,
            online_values=values,
        )
