"""Readings of the audits: facts for `penstock status`, values for the metrics."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlalchemy.orm import Session

from penstock.contracts.metrics import AUDIT_AGE, AUDIT_BACKLOG, REVIEW_AGE, REVIEWS
from penstock.runtime.metrics import Read, Reading, Readings
from penstock.runtime.status import Facts
from penstock.runtime.store import Store
from penstock_ethics_audit.store import counts, oldest_review, oldest_running


def facts(store: Store) -> Facts:
    with store.snapshot() as session:
        completed, running, opened = counts(session)
    said = [f"{completed} {'audit' if completed == 1 else 'audits'}"]
    said += [f"{running} running"] if running else []
    said += [f"{opened} {'review' if opened == 1 else 'reviews'} open"] if opened else []
    return {"audits": ", ".join(said)}


def metrics(store: Store, clock: Callable[[], datetime]) -> Readings:
    def reading(value: Callable[[Session], float]) -> Read:
        def read() -> list[Reading]:
            with store.snapshot() as session:
                return [(float(value(session)), {})]

        return read

    def age(oldest: Callable[[Session], datetime | None]) -> Read:
        def seconds(session: Session) -> float:
            since = oldest(session)
            return (clock() - since).total_seconds() if since else 0.0

        return reading(seconds)

    return {
        AUDIT_BACKLOG: reading(lambda session: counts(session)[1]),
        AUDIT_AGE: age(oldest_running),
        REVIEWS: reading(lambda session: counts(session)[2]),
        REVIEW_AGE: age(oldest_review),
    }
