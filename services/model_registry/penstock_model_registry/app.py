"""The wiring, and the only file that knows all the others."""

from __future__ import annotations

import asyncio
from functools import partial

from penstock.model_registry.v1.model_registry_pb2_grpc import add_ModelRegistryServiceServicer_to_server
from penstock.packages.keys import Keys
from penstock.runtime.lifecycle import Service
from penstock_model_registry import endorsement, handlers, readings
from penstock_model_registry.deletion import Deletions
from penstock_model_registry.history import History
from penstock_model_registry.lease import TopicsLease
from penstock_model_registry.packages import Packages
from penstock_model_registry.pipelines import Pipelines
from penstock_model_registry.registry import Registry
from penstock_model_registry.servicer import Servicer
from penstock_model_registry.settings import Settings
from penstock_model_registry.store import Tables

MIGRATIONS = "penstock_model_registry.migrations"


async def run(settings: Settings) -> None:
    async with Service("model_registry", settings) as service:
        store = await service.store(Tables.metadata, MIGRATIONS)
        keys = Keys(settings.platform.keys, settings.platform.private_keys)
        await asyncio.to_thread(keys.ensure, roles=["registry"])
        packages = Packages(service.artifacts, keys)
        kafka = settings.platform.kafka
        changing = TopicsLease(store, settings.replica, service.clock)
        deletions = Deletions(store, kafka, keys, service.artifacts, service.clock, changing)
        pipelines = Pipelines(store, kafka, keys, deletions, service.clock)
        await store.write(pipelines.state_again)
        registry = Registry(store, packages, service.artifacts, keys, service.clock)
        await store.write(registry.state_again)

        await service.restores(History(store, keys))
        service.consume(handlers.router(registry, store))
        service.serve(
            add_ModelRegistryServiceServicer_to_server, Servicer(store, pipelines, registry, packages)
        )
        service.describe(partial(readings.facts, store))
        service.observe(readings.metrics(store))
        service.background("topics", pipelines.make_topics_again)
        service.background("deletions", deletions.run)
        service.background("trust", partial(endorsement.run, keys))
        await service.until_stopped()
