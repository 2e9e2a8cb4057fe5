"""The wiring, and the only file that knows all the others."""

from __future__ import annotations

import asyncio
from typing import get_args

from penstock.contracts import metrics
from penstock.model_registry.v1.model_registry_pb2_grpc import add_ModelRegistryServiceServicer_to_server
from penstock.packages.keys import Keys
from penstock.runtime.lifecycle import Service
from penstock.runtime.metrics import Reading
from penstock_model_registry import handlers
from penstock_model_registry import store as rows
from penstock_model_registry.facts import facts
from penstock_model_registry.history import History
from penstock_model_registry.packages import Packages
from penstock_model_registry.pipelines import Pipelines
from penstock_model_registry.registry import Registry
from penstock_model_registry.servicer import Servicer
from penstock_model_registry.settings import Settings
from penstock_model_registry.store import Tables
from penstock_model_registry.topics import PipelineTopics

MIGRATIONS = "penstock_model_registry.migrations"


async def run(settings: Settings) -> None:
    async with Service("model_registry", settings) as service:
        store = await service.store(Tables.metadata, MIGRATIONS)
        keys = Keys(settings.platform.keys, settings.platform.private_keys)
        await asyncio.to_thread(keys.ensure, roles=["registry"])
        packages = Packages(service.artifacts, keys)

        history = History(store, keys)

        def tell() -> None:
            with store.snapshot() as session:
                for key, text in facts(session).items():
                    service.fact(key, text)

        def versions() -> list[Reading]:
            with store.snapshot() as session:
                found = rows.states(session)
            return [(float(found.get(state, 0)), {"state": state}) for state in get_args(rows.State)]

        await asyncio.to_thread(tell)
        service.observe(metrics.VERSIONS, versions)
        pipelines = Pipelines(
            store, PipelineTopics(settings.platform.kafka), service.clock, changed=tell, known=history.known
        )
        registry = Registry(
            store, packages, service.artifacts, keys, service.clock, changed=tell, known=history.known
        )
        service.consume(handlers.router(registry, store), *([history.router] if history.router else []))
        service.background("history", history.restore)
        service.serve(
            add_ModelRegistryServiceServicer_to_server,
            Servicer(store, pipelines, registry, packages, known=history.known),
        )
        await service.until_stopped()
