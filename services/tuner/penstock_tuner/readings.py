"""Readings of the studies: facts for `penstock status`, values for the metrics."""

from __future__ import annotations

from collections.abc import Callable

from penstock.contracts.metrics import STUDIES
from penstock.runtime.metrics import Reading, Readings
from penstock.runtime.status import Facts
from penstock.runtime.store import Store
from penstock_tuner.store import FAILED, PREPARING, REQUESTED, SEARCHING, counts

OPEN = (REQUESTED, PREPARING, SEARCHING)


def facts(store: Store) -> Callable[[], Facts]:
    def read() -> Facts:
        with store.snapshot() as session:
            found = counts(session)
        waiting = sum(found.get(state, 0) for state in OPEN)
        return {"studies": f"{sum(found.values())} studies, {waiting} open, {found.get(FAILED, 0)} failed"}

    return read


def metrics(store: Store) -> Readings:
    def studies() -> list[Reading]:
        with store.snapshot() as session:
            found = counts(session)
        return [(float(found.get(state, 0)), {"state": state}) for state in OPEN]

    return {STUDIES: studies}
