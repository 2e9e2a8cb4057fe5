"""The wiring, and the only file that knows all the others."""

from __future__ import annotations

import asyncio

from penstock.packages.keys import Keys
from penstock.runtime.lifecycle import Service
from penstock.runtime.patience import Awaited
from penstock.trainer.v1.trainer_pb2_grpc import add_TrainerServiceServicer_to_server
from penstock_trainer import handlers, readings
from penstock_trainer.leftovers import remove_leftovers
from penstock_trainer.runs import JOB, STUDY_TRACKING_JOB, TRACKING_JOB, Runs
from penstock_trainer.servicer import Servicer
from penstock_trainer.settings import Settings
from penstock_trainer.store import Tables


async def run(settings: Settings) -> None:
    async with Service("trainer", settings) as service:
        store = await service.store(Tables.metadata, "penstock_trainer.migrations")
        keys = Keys(settings.platform.keys, settings.platform.private_keys)
        await asyncio.to_thread(keys.ensure, roles=["trainer"])
        runs = Runs(service.clock, settings.runs_dir, Awaited(service.readiness), keys)
        await store.read(runs.sweep)

        service.consume(handlers.router(runs, store))
        service.serve(
            add_TrainerServiceServicer_to_server,
            Servicer(runs, store, service.channel("model_registry"), service.artifacts),
        )
        service.jobs(
            JOB,
            module="penstock_trainer.job",
            store=store,
            on_progress=runs.progressed,
            on_result=runs.completed,
            on_failure=runs.failed,
            parallel=settings.at_once,
        )
        for kind in (TRACKING_JOB, STUDY_TRACKING_JOB):
            service.jobs(
                kind,
                module="penstock_trainer.tracking_job",
                store=store,
                on_result=handlers.tracked,
                on_failure=handlers.not_tracked,
            )
        service.background("imports", lambda: remove_leftovers(store, service.artifacts))
        service.describe(readings.facts(store))
        service.observe(readings.metrics(store))
        await service.until_stopped()
