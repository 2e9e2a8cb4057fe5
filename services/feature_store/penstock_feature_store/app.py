"""The wiring, and the only file that knows all the others."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from penstock.packages.keys import Keys
from penstock.runtime.lifecycle import Service
from penstock_feature_store import handlers, readings
from penstock_feature_store.deletion import Deletion
from penstock_feature_store.erasure import Erasures
from penstock_feature_store.lake.arrivals import Arrivals
from penstock_feature_store.lake.barrier import Barrier
from penstock_feature_store.lake.lake import Lake
from penstock_feature_store.lake.ownership import Forwarding, Owner, Ownership
from penstock_feature_store.lake.records import Records
from penstock_feature_store.online.redis import RedisOnlineStores
from penstock_feature_store.online.sqlite import SqliteOnlineStores
from penstock_feature_store.online.stores import OnlineStores
from penstock_feature_store.owner import OwnerRole
from penstock_feature_store.pipelines import Pipelines
from penstock_feature_store.servicer import Servicer, add_to_server
from penstock_feature_store.settings import Settings
from penstock_feature_store.store import Tables
from penstock_feature_store.training.sets import TrainingSets
from penstock_feature_store.training.spawner import Spawner


async def run(settings: Settings, spawner: Spawner) -> None:
    async with AsyncExitStack() as last, Service("feature_store", settings) as service:
        last.callback(spawner.close)  # what is pushed here closes when nothing runs any more
        folder = settings.data_dir
        keys = Keys(settings.platform.keys, settings.platform.private_keys)
        await asyncio.to_thread(keys.ensure, roles=["feature_store"])
        store = await service.store(Tables.metadata, "penstock_feature_store.migrations")
        stores: OnlineStores = SqliteOnlineStores()
        if settings.redis:
            stores = RedisOnlineStores(settings.redis, settings.online_store_password_file)
        last.callback(stores.close)
        lake = Lake(folder / "lake")
        this = Owner(replica=settings.replica, address=settings.advertised)
        ownership = Ownership(lake, store, this, service.readiness, service.clock)
        last.push_async_callback(asyncio.to_thread, ownership.release)

        arrivals = Arrivals()
        records = Records(settings, arrivals, service.readiness)
        deletion = Deletion(store, lake, stores, folder / "feast", service.artifacts)
        pipelines = Pipelines(store, lake, stores, folder / "feast", records, keys, deletion)
        last.callback(pipelines.close)
        erasures = Erasures(
            store, lake, service.artifacts, stores, folder / "feast", folder / "erasures", keys
        )
        sets = TrainingSets(store, service.artifacts, spawner, folder / "work", keys, service.clock)
        role = OwnerRole(service, store, lake, arrivals, records, pipelines)
        forwarding = Forwarding(ownership)
        last.push_async_callback(forwarding.close)
        barrier = Barrier(settings.platform.kafka, records, arrivals)
        servicer = Servicer(pipelines, barrier, sets, erasures, forwarding, online=stores.shared)

        await service.restores(pipelines.applied, before_calls=not await pipelines.reopen())
        service.consume(handlers.router(arrivals, store, keys))
        service.describe(readings.facts(pipelines))
        service.observe(readings.metrics(pipelines))
        service.serve(add_to_server, servicer)
        service.background("spawner", spawner.watch)
        if stores.shared:
            service.background("online store", lambda: role.online.tell_trouble(stores, service.readiness))
        service.background("ownership", lambda: ownership.run(lambda: role.begin(erasures, sets)))
        await service.until_stopped()
