"""The wiring, and the only file that knows all the others."""

from __future__ import annotations

import asyncio
import time

from penstock.contracts.events import PipelineApplied
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import source_topic
from penstock.ingest.v1 import ingest_pb2_grpc
from penstock.runtime.broker import Router
from penstock.runtime.kafka.transactional import TransactionalStream
from penstock.runtime.lifecycle import Service
from penstock_ingest import handlers
from penstock_ingest.catalog import Catalog
from penstock_ingest.history import History
from penstock_ingest.intake import Intake
from penstock_ingest.ledger import Ledger
from penstock_ingest.servicer import Servicer
from penstock_ingest.settings import Settings

STATUS_EVERY_S = 10.0


def milliseconds() -> int:
    return time.time_ns() // 1_000_000


async def run(settings: Settings) -> None:
    async with Service("ingest", settings) as service:
        kafka = settings.platform.kafka
        stream = TransactionalStream(
            kafka,
            group=handlers.GROUP,
            replica=settings.replica,
            waits=service.readiness,
            batch=settings.batch,
        )

        def make(pipeline: Pipeline, source: str) -> Intake:
            history = History(kafka, source_topic("seen", pipeline.pipeline, source))
            return Intake(
                pipeline, source, restores=history, clock=milliseconds, capacity=settings.seen_capacity
            )

        catalog = Catalog(
            make,
            added=lambda intake: stream.add(intake.events_topic, intake),
            removed=lambda intake: stream.remove(intake.events_topic),
        )
        ledger = Ledger(kafka, handlers.GROUP)
        router = handlers.router(catalog, kafka)
        service.consume(router)
        service.serve(ingest_pb2_grpc.add_IngestServiceServicer_to_server, Servicer(catalog, ledger))
        service.background("start", lambda: _start(service, stream, router, catalog))
        service.background("status", lambda: _status(service, catalog))
        await service.until_stopped()
        await asyncio.to_thread(ledger.close)


async def _start(service: Service, stream: TransactionalStream, router: Router, catalog: Catalog) -> None:
    """Once all pipelines are known: each topic added later makes the group rebalance."""
    await router.caught_up(PipelineApplied.topic)
    catalog.complete()
    service.thread("stream", stream.run)


async def _status(service: Service, catalog: Catalog) -> None:
    while True:
        rejects = sum(intake.rejected_since(milliseconds() - 60_000) for intake in catalog.intakes)
        pipelines = catalog.pipelines
        service.fact("pipelines", f"{pipelines} pipeline{'' if pipelines == 1 else 's'}")
        service.fact("rejects", f"{rejects} reject{'' if rejects == 1 else 's'} in the last minute")
        await asyncio.sleep(STATUS_EVERY_S)
