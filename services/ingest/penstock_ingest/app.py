"""The wiring, and the only file that knows all the others."""

from __future__ import annotations

from functools import partial

from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import source_topic
from penstock.ingest.v1.ingest_pb2_grpc import add_IngestServiceServicer_to_server
from penstock.packages.keys import Keys
from penstock.runtime.dead_letters import DeadLetters
from penstock.runtime.kafka.streams import TransactionalStream
from penstock.runtime.lifecycle import Service
from penstock_ingest import readings
from penstock_ingest.catalog import GROUP, Catalog, ensure_source_topics
from penstock_ingest.history import History
from penstock_ingest.intake import Intake, milliseconds
from penstock_ingest.ledger import Ledger
from penstock_ingest.servicer import Servicer
from penstock_ingest.settings import Settings


async def run(settings: Settings) -> None:
    async with Service("ingest", settings) as service:
        kafka = settings.platform.kafka
        stream = TransactionalStream(
            kafka,
            group=GROUP,
            replica=settings.replica,
            readiness=service.readiness,
            batch=settings.batch,
        )

        letters = DeadLetters(kafka, GROUP)

        def make(pipeline: Pipeline, source: str) -> Intake:
            return Intake(
                pipeline,
                source,
                restores=History(kafka, source_topic("seen", pipeline.pipeline, source), letters.put_all),
                clock=milliseconds,
                capacity=settings.seen_capacity,
            )

        catalog = Catalog(
            make,
            Keys(settings.platform.keys),
            prepare=partial(ensure_source_topics, kafka),
            added=lambda intake: stream.add(intake.events_topic, intake),
            removed=lambda intake: stream.remove(intake.events_topic),
        )
        ledger = Ledger(kafka, GROUP)
        service.closes(ledger.close)

        await service.restores(catalog.applied)
        service.stream("stream", stream.run)
        service.serve(add_IngestServiceServicer_to_server, Servicer(catalog, ledger))
        service.describe(lambda: readings.facts(catalog))
        await service.until_stopped()
