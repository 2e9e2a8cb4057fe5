"""The wiring, and the only file that knows all the others."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from penstock.contracts.errors import Unavailable
from penstock.contracts.topics import source_topic
from penstock.feature_store.v1 import feature_store_pb2_grpc
from penstock.runtime.kafka.positioned import PositionedStream
from penstock.runtime.lifecycle import Service
from penstock_feature_store import duties, handlers, readings
from penstock_feature_store.erasure import Erasures
from penstock_feature_store.forwarding import Forwarding
from penstock_feature_store.lake.arrivals import Arrivals
from penstock_feature_store.lake.barrier import Barrier
from penstock_feature_store.lake.batches import source_schema
from penstock_feature_store.lake.lake import Lake, SourceLake
from penstock_feature_store.lake.ownership import Owner, Ownership
from penstock_feature_store.lake.records import RecordsSink
from penstock_feature_store.online.redis import RedisOnlineStores
from penstock_feature_store.online.sqlite import SqliteOnlineStores
from penstock_feature_store.online.stores import OnlineStores
from penstock_feature_store.online.writer import OnlineWriter
from penstock_feature_store.pipelines import Pipelines
from penstock_feature_store.servicer import Servicer
from penstock_feature_store.settings import Settings
from penstock_feature_store.store import Tables
from penstock_feature_store.training.sets import TrainingSets
from penstock_feature_store.training.spawner import Spawner
from penstock_feature_store.training.trigger import Trigger

MIGRATIONS = "penstock_feature_store.migrations"
STREAM_GROUP = "penstock.feature_store.records"
"""Apart from the control plane's group: each subscribes to other topics."""
CHECK_EVERY_S = 2.0


async def run(settings: Settings, spawner: Spawner) -> None:
    async with AsyncExitStack() as last:  # closed when nothing runs any more
        last.callback(spawner.close)
        async with Service("feature_store", settings) as service:
            kafka, folder = settings.platform.kafka, settings.data_dir
            store = await service.store(Tables.metadata, MIGRATIONS)
            stores = _online_stores(settings)
            last.callback(stores.close)
            lake = Lake(folder / "lake")
            this = Owner(replica=settings.replica, address=settings.advertised)
            ownership = Ownership(lake, store, this, service.readiness, service.clock)
            last.push_async_callback(asyncio.to_thread, ownership.release)

            arrivals = Arrivals()
            sink = RecordsSink(arrivals)
            stream = PositionedStream(
                kafka,
                group=STREAM_GROUP,
                sink=sink,
                waits=service.readiness,
                batch=settings.batch,
                linger_s=settings.linger_s,
            )

            def added(pipeline: str, source: str, of: SourceLake) -> None:
                topic = source_topic("records", pipeline, source)
                sink.route(topic, of, lambda: source_schema(pipelines.get(pipeline).pipeline.sources[source]))
                stream.add(topic)
                arrivals.tell()

            def removed(pipeline: str, source: str) -> None:
                stream.remove(source_topic("records", pipeline, source))

            pipelines = Pipelines(store, lake, stores, folder / "feast", added=added, removed=removed)
            last.callback(pipelines.close)
            erasures = Erasures(store, lake, service.artifacts, stores, folder / "feast", folder / "erasures")
            sets = TrainingSets(store, service.artifacts, spawner, folder / "work", service.clock)
            forwarding = Forwarding(ownership)
            servicer = Servicer(
                pipelines,
                Barrier(kafka, sink, arrivals),
                sets,
                erasures,
                ownership,
                forwarding,
                online=stores.shared,
            )
            online = OnlineWriter(pipelines, arrivals)

            async def begin() -> None:
                """What only the lake's owner does."""
                await asyncio.to_thread(erasures.resume)
                await sets.forget_unfinished()
                await asyncio.to_thread(pipelines.own)
                service.background(
                    "trigger", lambda: duties.watch(Trigger(store, pipelines, service.clock), arrivals)
                )
                service.background("retention", lambda: duties.retain(pipelines, service.clock))
                service.background("erasures", lambda: duties.erase_again(pipelines, erasures))
                service.thread("online", online.run)
                service.thread("merge", lambda stop: duties.merge(lake, arrivals, stop))
                service.stream("records", stream.run)

            await service.restores(pipelines.applied, before_calls=not await pipelines.reopen())
            service.consume(handlers.router(arrivals, store))
            service.describe(readings.facts(pipelines))
            service.observe(readings.metrics(pipelines))
            service.serve(feature_store_pb2_grpc.add_FeatureStoreServiceServicer_to_server, servicer)
            service.background("forwarding", forwarding.until_stopped)
            service.background("spawner", spawner.watch)
            if stores.shared:
                service.background("online store", lambda: _watch(service, stores, online))
            service.background("ownership", lambda: ownership.run(begin))
            await service.until_stopped()


def _online_stores(settings: Settings) -> OnlineStores:
    return (
        RedisOnlineStores(settings.redis, settings.online_store_password_file)
        if settings.redis
        else SqliteOnlineStores()
    )


async def _watch(service: Service, stores: OnlineStores, writer: OnlineWriter) -> None:
    while True:
        try:
            await asyncio.to_thread(stores.check)
            trouble = writer.trouble
        except Unavailable as error:
            trouble = error.message
        if trouble:
            service.waits_for("online store", trouble)
        else:
            service.has("online store")
        await asyncio.sleep(CHECK_EVERY_S)
