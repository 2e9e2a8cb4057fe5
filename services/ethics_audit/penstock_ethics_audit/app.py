"""The wiring, and the only file that knows all the others."""

from __future__ import annotations

import asyncio
from functools import partial

from penstock.ethics_audit.v1.ethics_audit_pb2_grpc import add_EthicsAuditServiceServicer_to_server
from penstock.packages.keys import Keys
from penstock.runtime.lifecycle import Service
from penstock_ethics_audit import handlers, readings
from penstock_ethics_audit.desk import JOB, Desk
from penstock_ethics_audit.history import History
from penstock_ethics_audit.servicer import Servicer
from penstock_ethics_audit.settings import Settings
from penstock_ethics_audit.store import Tables

MIGRATIONS = "penstock_ethics_audit.migrations"


async def run(settings: Settings) -> None:
    async with Service("ethics_audit", settings) as service:
        store = await service.store(Tables.metadata, MIGRATIONS)
        keys = Keys(settings.platform.keys.resolve(), settings.platform.private_keys.resolve())
        await asyncio.to_thread(keys.ensure, roles=["audit"])
        desk = Desk(keys, settings.platform.artifact_roots, service.clock)

        await service.restores(handlers.applied(desk, store, keys), before_calls=False)
        await service.restores(History(store, desk, keys))
        service.consume(handlers.router(desk, store))
        service.serve(
            add_EthicsAuditServiceServicer_to_server, Servicer(desk, store, service.artifacts, keys)
        )
        service.jobs(
            JOB,
            module="penstock_ethics_audit.job",
            store=store,
            on_result=desk.complete,
            on_failure=desk.fail,
            parallel=settings.parallel,
            environment={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        service.describe(partial(readings.facts, store))
        service.observe(readings.metrics(store, service.clock))
        await service.until_stopped()
