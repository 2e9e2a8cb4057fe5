"""Readings of the audits: facts for `penstock status`, values for the metrics."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select

from penstock.contracts.metrics import AUDIT_AGE, AUDIT_BACKLOG, REVIEW_AGE, REVIEWS
from penstock.runtime.metrics import Read, Reading, Readings
from penstock.runtime.status import Facts
from penstock.runtime.store import Store
from penstock_ethics_audit.store import COMPLETED, OPEN, RUNNING, AuditRow, ReviewRow

_COMPLETED = select(func.count(AuditRow.audit_id)).where(AuditRow.state == COMPLETED)
_RUNNING = select(func.count(AuditRow.audit_id)).where(AuditRow.state == RUNNING)
_OPEN = select(func.count(ReviewRow.audit_id)).where(ReviewRow.state == OPEN)
_OLDEST_RUNNING = select(func.min(AuditRow.started_at)).where(AuditRow.state == RUNNING)
_OLDEST_OPEN = select(func.min(ReviewRow.requested_at)).where(ReviewRow.state == OPEN)


def facts(store: Store) -> Facts:
    with store.snapshot() as session:
        completed, running, opened = (session.scalar(query) or 0 for query in (_COMPLETED, _RUNNING, _OPEN))
    said = [f"{completed} {'audit' if completed == 1 else 'audits'}"]
    said += [f"{running} running"] if running else []
    said += [f"{opened} {'review' if opened == 1 else 'reviews'} open"] if opened else []
    return {"audits": ", ".join(said)}


def metrics(store: Store, clock: Callable[[], datetime]) -> Readings:
    def reading(query: Select[Any], value: Callable[[Any], float]) -> Read:
        def read() -> list[Reading]:
            with store.snapshot() as session:
                return [(value(session.scalar(query)), {})]

        return read

    def age(since: datetime | None) -> float:
        return (clock() - since).total_seconds() if since else 0.0

    return {
        AUDIT_BACKLOG: reading(_RUNNING, float),
        AUDIT_AGE: reading(_OLDEST_RUNNING, age),
        REVIEWS: reading(_OPEN, float),
        REVIEW_AGE: reading(_OLDEST_OPEN, age),
    }
