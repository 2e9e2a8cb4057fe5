"""The wiring, and the only file that knows all the others."""

from __future__ import annotations

from penstock.runtime.lifecycle import Service
from penstock.runtime.patience import Awaited
from penstock.tuner.v1.tuner_pb2_grpc import add_TunerServiceServicer_to_server
from penstock_tuner import handlers, readings
from penstock_tuner.servicer import Servicer
from penstock_tuner.settings import Settings
from penstock_tuner.store import Tables
from penstock_tuner.studies import JOB, Studies


async def run(settings: Settings) -> None:
    async with Service("tuner", settings) as service:
        store = await service.store(Tables.metadata, "penstock_tuner.migrations")
        studies = Studies(service.clock, settings.studies_dir, Awaited(service.readiness))
        await store.read(studies.sweep)

        service.consume(handlers.router(studies, store))
        service.serve(
            add_TunerServiceServicer_to_server, Servicer(studies, store, service.channel("model_registry"))
        )
        service.jobs(
            JOB,
            module="penstock_tuner.job",
            store=store,
            on_progress=studies.progressed,
            on_result=studies.completed,
            on_failure=studies.failed,
            parallel=settings.at_once,
        )
        service.describe(readings.facts(store))
        service.observe(readings.metrics(store))
        await service.until_stopped()
