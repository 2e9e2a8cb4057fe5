"""A transaction: rows, the events and jobs that follow from them, and who is told after the commit."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Literal

import structlog
from sqlalchemy import delete, inspect, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from ulid import ULID

from penstock.contracts.errors import TooLarge
from penstock.contracts.events import Cost, Event, encode
from penstock.runtime.tables import InboxRow, JobRow, OutboxRow, RuntimeTables
from penstock.runtime.telemetry import current_traceparent

log = structlog.get_logger(__name__)

# Kafka's default limit is 1 MiB with headers; a row that can never be published would hold up all
# behind it.
LARGEST_EVENT_BYTES = 900_000

# Work that a committed transaction left behind for the relay or the workers.
Wish = Literal["publish", "enqueue", "cancel"]


class Effect:
    """An open transaction: rows, events and jobs that become true together."""

    def __init__(self, session: Session, clock: Callable[[], datetime]) -> None:
        self.session = session
        self._clock = clock
        self._wishes: set[Wish] = set()
        self._after: list[Callable[[], None]] = []

    def receive(self, group: str, event_id: str) -> bool:
        """Notes in the inbox that the group applies the event; False where it has."""
        return _insert_new(
            self.session, InboxRow, group_id=group, event_id=event_id, applied_at=self._clock()
        )

    def publish(self, event: Event) -> None:
        """The event goes to Kafka after the commit, in the order of these calls, at least once.
        Raises TooLarge.
        """
        value = encode(event)
        if len(value) > LARGEST_EVENT_BYTES:
            raise TooLarge(
                f"{type(event).__name__} has {len(value)} bytes, at most {LARGEST_EVENT_BYTES}",
                remedy="Put the bulk into an artifact",
            )
        self.session.add(
            OutboxRow(
                topic=event.topic,
                key=event.key,
                event_id=str(ULID()),
                event_type=event.ce_type(),
                occurred_at=self._clock(),
                traceparent=current_traceparent(),
                value=value,
            )
        )
        self.session.flush()
        self._wishes.add("publish")

    def enqueue(self, kind: str, job_id: str, payload: object) -> bool:
        """A job for the workers of `kind`; its process is given the payload as JSON. False, and nothing
        changed, where the same job was enqueued before, however it ended.
        """
        now = self._clock()
        new = _insert_new(
            self.session,
            JobRow,
            kind=kind,
            job_id=job_id,
            payload=payload,
            traceparent=current_traceparent(),
            state="queued",
            attempt=0,
            crashes=0,
            refusals=0,
            not_before=now,
            created_at=now,
            updated_at=now,
        )
        self._wishes.add("enqueue")
        return new

    def cancel(self, kind: str, job_id: str) -> bool:
        """The job ends here: what its process still says is ignored, and it is killed. False where
        it had ended or never was. No callback is called: whoever cancels publishes what follows.
        """
        row = self.session.scalar(
            select(JobRow).where(JobRow.kind == kind, JobRow.job_id == job_id).with_for_update()
        )
        if row is None or row.state not in ("queued", "running"):
            return False
        row.state, row.owner, row.lease_until, row.updated_at = "canceled", None, None, self._clock()
        self._wishes.add("cancel")
        return True

    def spent(self, kind: str, job_id: str) -> Cost:
        """Cost of a job over all its starts, the one that calls back included."""
        cost = select(JobRow.cost).where(JobRow.kind == kind, JobRow.job_id == job_id)
        return self.session.scalar(cost) or Cost()

    def forget(self, older_than: timedelta) -> int:
        """Deletes old inbox rows and ended jobs; returns how many. An event that comes again after
        that is applied again.
        """
        before = self._clock() - older_than
        old_events = delete(InboxRow).where(InboxRow.applied_at < before)
        old_jobs = delete(JobRow).where(
            JobRow.state.in_(("done", "failed", "canceled")), JobRow.updated_at < before
        )
        return sum(self.session.execute(old).rowcount for old in (old_events, old_jobs))  # type: ignore[attr-defined]  # CursorResults

    def after_commit(self, do: Callable[[], None]) -> None:
        """Calls `do` once the transaction is durable, in its thread; lost with the process, so only
        to wake somebody or to count.
        """
        self._after.append(do)

    def tell(self, listen: Callable[[Wish], None]) -> None:
        """Says what the commit left, and calls what was to follow it."""
        for wish in sorted(self._wishes):
            listen(wish)
        for do in self._after:
            try:
                do()
            except Exception:
                log.exception(
                    "after_commit_failed"
                )  # the transaction is durable: its caller must not take it for undone


Write = Callable[[Effect], object]  # the work of one transaction


def has_applied(session: Session, group: str, event_id: str) -> bool:
    """Tells whether the group's inbox knows the event."""
    return session.get(InboxRow, (group, event_id)) is not None


def _insert_new(session: Session, table: type[RuntimeTables], **values: Any) -> bool:
    """INSERT … ON CONFLICT DO NOTHING; whether a row was made."""
    session.flush()
    insert = (sqlite if session.get_bind().dialect.name == "sqlite" else postgresql).insert
    made = session.execute(
        insert(table).values(**values).on_conflict_do_nothing().returning(*inspect(table).primary_key)
    )
    return made.first() is not None  # a row count is not told by every driver
