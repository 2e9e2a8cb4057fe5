"""The wiring, and the only file that knows all the others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from penstock.contracts.events import PipelineApplied
from penstock.contracts.topics import source_topic
from penstock.feature_store.v1 import feature_store_pb2, feature_store_pb2_grpc
from penstock.runtime.broker import Router
from penstock.runtime.lifecycle import Service
from penstock.runtime.stream import PositionedStream
from penstock_feature_store import handlers
from penstock_feature_store.arrivals import Arrivals
from penstock_feature_store.barrier import Barrier
from penstock_feature_store.batches import source_schema
from penstock_feature_store.erasure import Erasures
from penstock_feature_store.lake import Lake, SourceLake
from penstock_feature_store.online_writer import OnlineWriter, rows_behind
from penstock_feature_store.pipelines import Pipelines
from penstock_feature_store.records import RecordsSink
from penstock_feature_store.retention import expire
from penstock_feature_store.servicer import Servicer
from penstock_feature_store.sets import TrainingSets
from penstock_feature_store.settings import Settings
from penstock_feature_store.spawner import Spawner
from penstock_feature_store.store import Tables
from penstock_feature_store.trigger import Trigger

NAME = feature_store_pb2.DESCRIPTOR.services_by_name["FeatureStoreService"].full_name
MIGRATIONS = "penstock_feature_store.migrations"
STREAM_GROUP = "penstock.feature_store.records"
"""Apart from the control plane's group: each subscribes to other topics."""
STATUS_EVERY_S = 10.0
LOOK_AGAIN_S = 0.5
RETENTION_EVERY_S = 3600.0


async def run(settings: Settings, spawner: Spawner) -> None:
    with ExitStack() as last:  # closed when nothing runs any more
        last.callback(spawner.close)
        async with Service("feature_store", settings) as service:
            kafka, folder = settings.platform.kafka, settings.data_dir
            lake = last.enter_context(Lake(folder / "lake"))
            store = await service.store(Tables.metadata, MIGRATIONS)
            erasures = Erasures(store, lake, service.artifacts, folder / "feast", folder / "erasures")
            await asyncio.to_thread(erasures.resume)

            arrivals = Arrivals()
            sink = RecordsSink(arrivals)
            stream = PositionedStream(
                kafka, group=STREAM_GROUP, sink=sink, waits=service.readiness, batch=settings.batch, linger_s=settings.linger_s
            )

            def added(pipeline: str, source: str, of: SourceLake) -> None:
                topic = source_topic("records", pipeline, source)
                sink.route(topic, of, lambda: source_schema(pipelines.get(pipeline).pipeline.sources[source]))
                stream.add(topic)
                arrivals.tell()

            def removed(pipeline: str, source: str) -> None:
                stream.remove(source_topic("records", pipeline, source))

            pipelines = Pipelines(store, lake, folder / "feast", added=added, removed=removed)
            last.callback(pipelines.close)
            trigger = Trigger(store, pipelines, service.clock)
            sets = TrainingSets(store, service.artifacts, spawner, folder / "work", service.clock)
            router = handlers.router(pipelines, trigger, store)
            servicer = Servicer(pipelines, Barrier(kafka, sink, arrivals), sets, erasures)
            service.consume(router)
            service.serve(feature_store_pb2_grpc.add_FeatureStoreServiceServicer_to_server, servicer, NAME)
            service.background("start", lambda: _start(service, stream, router, pipelines))
            service.background("trigger", lambda: _watch(trigger, arrivals))
            service.background("status", lambda: _status(service, pipelines))
            service.background("retention", lambda: _retain(pipelines, folder / "feast", service.clock))
            service.background("spawner", spawner.watch)
            service.thread("online", OnlineWriter(pipelines, arrivals).run)
            service.thread("merge", lambda stop: _merge(lake, arrivals, stop))
            await service.until_stopped()


async def _start(service: Service, stream: PositionedStream, router: Router, pipelines: Pipelines) -> None:
    """Once all pipelines are known: each topic added later makes the group rebalance."""
    await router.caught_up(PipelineApplied.topic)
    pipelines.complete()
    service.thread("records", stream.run)


def _merge(lake: Lake, arrivals: Arrivals, stop: threading.Event) -> None:
    while not stop.is_set():
        count = arrivals.count
        for _, _, source in lake.opened():
            source.merge()
        while arrivals.count == count and not stop.is_set():
            arrivals.wait_blocking(count, LOOK_AGAIN_S)


async def _watch(trigger: Trigger, arrivals: Arrivals) -> None:
    while True:
        count = arrivals.count
        await asyncio.to_thread(trigger.look)
        await arrivals.wait(count, timeout_s=60.0)


async def _retain(pipelines: Pipelines, repositories: Path, clock: Callable[[], datetime]) -> None:
    while True:
        await asyncio.sleep(RETENTION_EVERY_S)
        for held in pipelines.all():
            async with held.gate.alone():
                await asyncio.to_thread(expire, held, repositories, clock())


async def _status(service: Service, pipelines: Pipelines) -> None:
    while True:
        for held in pipelines.all():
            rows = sum(lake.count() for lake in held.lakes.values())
            behind = await asyncio.to_thread(rows_behind, held)
            service.fact(
                held.pipeline.pipeline, f"{held.pipeline.pipeline} {rows:,} rows" + (f", {behind:,} not online yet" if behind else "")
            )
        await asyncio.sleep(STATUS_EVERY_S)
