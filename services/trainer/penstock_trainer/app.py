"""The wiring, and the only file that knows all the others."""

from __future__ import annotations

import asyncio
from typing import Any

from penstock.contracts import metrics
from penstock.contracts.errors import Kind
from penstock.runtime.lifecycle import Service
from penstock.runtime.metrics import Reading
from penstock.runtime.store import Effect
from penstock.trainer.v1.trainer_pb2_grpc import add_TrainerServiceServicer_to_server
from penstock_trainer import handlers
from penstock_trainer import store as rows
from penstock_trainer.runs import JOB, TRACKING_JOB, Runs
from penstock_trainer.servicer import Servicer
from penstock_trainer.settings import Settings
from penstock_trainer.store import Tables

OPEN = (rows.REQUESTED, rows.PREPARING, rows.TRAINING, rows.PACKAGING)


async def run(settings: Settings) -> None:
    async with Service("trainer", settings) as service:
        store = await service.store(Tables.metadata, migrations="penstock_trainer.migrations")
        runs = Runs(service.clock, settings.runs_dir, service)
        await store.read(runs.sweep)

        def tell() -> None:
            with store.snapshot() as session:
                found = rows.counts(session)
            waiting = sum(found.get(state, 0) for state in OPEN)
            service.fact(
                "runs", f"{sum(found.values())} runs, {waiting} open, {found.get(rows.FAILED, 0)} failed"
            )

        def open_runs() -> list[Reading]:
            with store.snapshot() as session:
                found = rows.counts(session)
            return [(float(found.get(state, 0)), {"state": state}) for state in OPEN]

        def tracked(_run_id: str, _result: dict[str, Any], _effect: Effect) -> None:
            return

        def not_tracked(run_id: str, kind: Kind, message: str, _remedy: str, _effect: Effect) -> None:
            service.log.warning("run_not_tracked", run=run_id, kind=kind.value, why=message)

        await asyncio.to_thread(tell)
        service.observe(metrics.RUNS, open_runs)
        runs.changes.on_any(tell)
        service.consume(handlers.router(runs, store))
        service.serve(
            add_TrainerServiceServicer_to_server,
            Servicer(runs, store, service.channel("model_registry")),
        )
        service.jobs(
            JOB,
            module="penstock_trainer.job",
            store=store,
            on_progress=runs.progressed,
            on_result=runs.completed,
            on_failure=runs.failed,
            parallel=settings.parallel,
        )
        service.jobs(
            TRACKING_JOB,
            module="penstock_trainer.tracking",
            store=store,
            on_result=tracked,
            on_failure=not_tracked,
        )
        await service.until_stopped()
