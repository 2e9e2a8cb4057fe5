"""The wiring, and the only file that knows all the others."""

from __future__ import annotations

from penstock.runtime.lifecycle import Service
from penstock.tuner.v1.tuner_pb2_grpc import add_TunerServiceServicer_to_server
from penstock_tuner import readings
from penstock_tuner.servicer import Servicer
from penstock_tuner.settings import Settings
from penstock_tuner.store import Tables


async def run(settings: Settings) -> None:
    async with Service("tuner", settings) as service:
        store = await service.store(Tables.metadata, "penstock_tuner.migrations")
        service.serve(add_TunerServiceServicer_to_server, Servicer(store))
        service.describe(readings.facts(store))
        await service.until_stopped()
