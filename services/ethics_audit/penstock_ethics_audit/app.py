"""The wiring."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from sqlalchemy.orm import Session

from penstock.contracts import metrics
from penstock.ethics_audit.v1.ethics_audit_pb2_grpc import add_EthicsAuditServiceServicer_to_server
from penstock.packages.keys import Keys
from penstock.runtime.lifecycle import Service
from penstock.runtime.metrics import Read, Reading
from penstock.runtime.store import Store
from penstock_ethics_audit import handlers
from penstock_ethics_audit import store as rows
from penstock_ethics_audit.desk import JOB, Desk
from penstock_ethics_audit.history import History
from penstock_ethics_audit.servicer import Servicer
from penstock_ethics_audit.settings import Settings
from penstock_ethics_audit.store import Tables

TELL_EVERY_S = 5.0


async def run(settings: Settings) -> None:
    async with Service("ethics_audit", settings) as service:
        store = await service.store(Tables.metadata, migrations="penstock_ethics_audit.migrations")
        keys = Keys(settings.platform.keys.resolve(), settings.platform.private_keys.resolve())
        await asyncio.to_thread(keys.ensure, roles=["audit"])
        desk = Desk(keys, settings.platform.artifacts_uri, service.clock)
        history = History(store, desk, keys)
        service.consume(
            handlers.router(desk, store, history.known), *([history.router] if history.router else [])
        )
        service.background("history", history.restore)
        service.serve(
            add_EthicsAuditServiceServicer_to_server,
            Servicer(desk, store, service.artifacts, keys),
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
        _observe(service, store)
        service.background("facts", lambda: _tell(service, store))
        await service.until_stopped()


def _observe(service: Service, store: Store) -> None:
    def count(which: int) -> Read:
        def read() -> list[Reading]:
            with store.snapshot() as session:
                return [(float(rows.counts(session)[which]), {})]

        return read

    def age(oldest: Callable[[Session], datetime | None]) -> Read:
        def read() -> list[Reading]:
            with store.snapshot() as session:
                since = oldest(session)
            return [((service.clock() - since).total_seconds() if since else 0.0, {})]

        return read

    service.observe(metrics.AUDIT_BACKLOG, count(1))
    service.observe(metrics.AUDIT_AGE, age(rows.oldest_running))
    service.observe(metrics.REVIEWS, count(2))
    service.observe(metrics.REVIEW_AGE, age(rows.oldest_review))


async def _tell(service: Service, store: Store) -> None:
    while True:
        completed, running, opened = await store.read(rows.counts)
        parts = [f"{completed} {'audit' if completed == 1 else 'audits'}"]
        parts += [f"{running} running"] if running else []
        parts += [f"{opened} {'review' if opened == 1 else 'reviews'} open"] if opened else []
        service.fact("audits", ", ".join(parts))
        await asyncio.sleep(TELL_EVERY_S)
