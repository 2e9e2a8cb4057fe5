"""Readings of the runs: facts for `penstock status`, values for the metrics."""

from __future__ import annotations

from collections.abc import Callable

from penstock.contracts.metrics import RUN_GPU_MEMORY, RUNS
from penstock.runtime.metrics import Reading, Readings
from penstock.runtime.status import Facts
from penstock.runtime.store import Store
from penstock_trainer.store import (
    FAILED,
    PACKAGING,
    PREPARING,
    REQUESTED,
    TRAINING,
    counts,
    memory_of_gpus,
)

OPEN = (REQUESTED, PREPARING, TRAINING, PACKAGING)


def facts(store: Store) -> Callable[[], Facts]:
    def read() -> Facts:
        with store.snapshot() as session:
            found = counts(session)
        waiting = sum(found.get(state, 0) for state in OPEN)
        return {"runs": f"{sum(found.values())} runs, {waiting} open, {found.get(FAILED, 0)} failed"}

    return read


def metrics(store: Store) -> Readings:
    def runs() -> list[Reading]:
        with store.snapshot() as session:
            found = counts(session)
        return [(float(found.get(state, 0)), {"state": state}) for state in OPEN]

    def gpus() -> list[Reading]:
        with store.snapshot() as session:
            found = memory_of_gpus(session)
        return [(float(most), {"pipeline": pipeline}) for pipeline, most in found.items()]

    return {RUNS: runs, RUN_GPU_MEMORY: gpus}
