"""The role of the replica that owns the lake: begins when ownership is taken, ends with the service."""

from __future__ import annotations

import asyncio

from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import source_topic
from penstock.runtime.kafka.streams import PositionedStream
from penstock.runtime.lifecycle import Service
from penstock.runtime.store import Store
from penstock_feature_store import duties
from penstock_feature_store.erasure import Erasures
from penstock_feature_store.lake.arrivals import Arrivals
from penstock_feature_store.lake.batches import source_schema
from penstock_feature_store.lake.lake import Lake, SourceLake
from penstock_feature_store.lake.records import RecordsSink
from penstock_feature_store.online.writer import OnlineWriter
from penstock_feature_store.pipelines import Pipelines
from penstock_feature_store.settings import Settings
from penstock_feature_store.training.sets import TrainingSets
from penstock_feature_store.training.trigger import Trigger

GROUP = "penstock.feature_store.records"
"""Apart from the control plane's group: each subscribes to other topics."""


class RecordsStream:
    """Records of the owned sources, from their topics into the lake."""

    def __init__(self, service: Service, settings: Settings, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self.sink = RecordsSink(arrivals)
        self._stream = PositionedStream(
            settings.platform.kafka,
            group=GROUP,
            sink=self.sink,
            readiness=service.readiness,
            batch=settings.batch,
            linger_s=settings.linger_s,
        )
        self.run = self._stream.run

    def add(self, pipeline: Pipeline, source: str, lake: SourceLake) -> None:
        """Follows a source of the pipeline as it is now, also one that is followed already."""
        topic = source_topic("records", pipeline.pipeline, source)
        self.sink.route(topic, lake, source_schema(pipeline.sources[source]))
        self._stream.subscribe(topic)
        self._arrivals.tell()

    def remove(self, pipeline: str, source: str) -> None:
        self._stream.remove(source_topic("records", pipeline, source))


class OwnerRole:
    """Work that only one replica may do, beside its online writer: records into the lake, merging,
    the trigger, retention, interrupted erasures.
    """

    def __init__(
        self,
        service: Service,
        store: Store,
        lake: Lake,
        arrivals: Arrivals,
        records: RecordsStream,
        pipelines: Pipelines,
    ) -> None:
        self._service = service
        self._lake = lake
        self._arrivals = arrivals
        self._records = records
        self._pipelines = pipelines
        self._trigger = Trigger(store, pipelines, service.clock)
        self.online = OnlineWriter(pipelines, arrivals)

    async def begin(self, erasures: Erasures, sets: TrainingSets) -> None:
        """Ends what the last owner left unfinished, then starts the work."""
        service, pipelines = self._service, self._pipelines
        await asyncio.to_thread(erasures.resume)
        await sets.forget_unfinished()
        await asyncio.to_thread(pipelines.own)
        service.background("trigger", lambda: duties.watch(self._trigger, self._arrivals))
        service.background("retention", lambda: duties.retain(pipelines, service.clock))
        service.background("erasures", lambda: duties.erase_again(pipelines, erasures))
        service.thread("online", self.online.run)
        service.thread("merge", lambda stop: duties.merge(self._lake, self._arrivals, stop))
        service.stream("records", self._records.run)
