"""The queue of one kind of job: rows, claimed and held under a lease."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Select, and_, func, or_, select, update
from sqlalchemy.orm import Session

from penstock.contracts import metrics
from penstock.contracts.events import Cost
from penstock.runtime.backoff import Backoff
from penstock.runtime.database import DatabaseAway
from penstock.runtime.jobs.policy import REFUSALS
from penstock.runtime.metrics import Reading, Readings
from penstock.runtime.router import may_pass
from penstock.runtime.store import Effect, Store
from penstock.runtime.tables import JobRow

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 5.0  # besides being woken: for leases of replicas that died


class NotOurs(Exception):
    """Somebody canceled the job or took it over."""


@dataclass
class Claim:
    """A start of a job: what the starts before cost, and, as it goes on, what this one does."""

    row: int
    job_id: str
    attempt: int
    payload: dict[str, Any]
    traceparent: str | None
    before: Cost
    spent: Cost = field(default_factory=Cost)

    @property
    def cost(self) -> Cost:
        return self.before + self.spent


class JobQueue:
    """Jobs of one kind, as one replica sees them. `in_hand`: rows that its workers have; they are
    not for another worker, though their lease ran out while the database was away.
    """

    def __init__(self, kind: str, store: Store, owner: str, lease: timedelta) -> None:
        self.kind = kind
        self.now = store.clock
        self._store = store
        self._owner = owner
        self._lease = lease
        self._kind = JobRow.kind == kind
        self._running = and_(self._kind, JobRow.state == "running")
        self._held = and_(self._running, JobRow.owner == owner)

    async def take_back(self) -> None:
        """Queues the jobs that run under this replica's name: their process is dead, and its
        children with it. Raises Unavailable.
        """
        left = await self._store.read(
            lambda session: session.scalars(select(JobRow.job_id).where(self._held)).all()
        )
        if left:
            queued = update(JobRow).where(self._held).values(state="queued", owner=None, lease_until=None)
            await self._store.write(lambda effect: effect.session.execute(queued))
            log.warning("jobs_taken_back", kind=self.kind, jobs=list(left))

    async def claim(self, in_hand: Collection[int], closed: Callable[[], bool]) -> Claim | None:
        """Takes the first job that may be started here; None without one, or once `closed()`."""
        if await self._store.read(lambda session: session.scalar(self._claimable(in_hand))) is None:
            return None
        return await self._store.write(partial(self._claimed, in_hand, closed))

    def _claimed(self, in_hand: Collection[int], closed: Callable[[], bool], effect: Effect) -> Claim | None:
        row = effect.session.scalar(self._claimable(in_hand).with_for_update(skip_locked=True))
        if row is None or closed():
            return None
        now = self.now()  # not of the call: it may have waited for another writer
        if row.state == "running":
            log.warning("job_taken_over", kind=self.kind, job=row.job_id, of=row.owner)
        row.state, row.owner, row.attempt, row.updated_at = "running", self._owner, row.attempt + 1, now
        row.lease_until = now + self._lease
        return Claim(row.id, row.job_id, row.attempt, row.payload, row.traceparent, row.cost or Cost())

    def _claimable(self, in_hand: Collection[int]) -> Select[JobRow]:
        now = self.now()
        waiting = and_(JobRow.state == "queued", JobRow.not_before <= now)
        abandoned = and_(JobRow.state == "running", JobRow.lease_until < now)
        free = and_(self._kind, JobRow.id.not_in(list(in_hand)), or_(waiting, abandoned))
        return select(JobRow).where(free).order_by(JobRow.id).limit(1)

    async def next_look(self, in_hand: Collection[int]) -> float:
        """Seconds until a job becomes free to be claimed, at most `LOOK_EVERY_S`."""
        waiting = select(func.min(JobRow.not_before)).where(self._kind, JobRow.state == "queued")
        leased = select(func.min(JobRow.lease_until)).where(self._running, JobRow.id.not_in(list(in_hand)))
        found = await self._store.read(lambda session: (session.scalar(waiting), session.scalar(leased)))
        now = self.now()
        return min([LOOK_EVERY_S, *(max(0.01, (at - now).total_seconds()) for at in found if at is not None)])

    async def held(self, rows: Collection[int]) -> set[int]:
        """Returns those of `rows` that this replica still has."""
        ours = select(JobRow.id).where(JobRow.id.in_(list(rows)), self._held)
        return await self._store.read(lambda session: set(session.scalars(ours)))

    async def hold(self, claim: Claim) -> datetime:
        """Renews the lease; returns its new end. Raises NotOurs."""

        def renew(effect: Effect) -> datetime:
            row = self._ours(effect.session, claim)
            row.lease_until = until = self.now() + self._lease
            row.cost = claim.cost
            return until

        return await self._store.write(renew)

    async def count(self, claim: Claim, column: str) -> int:
        """Counts this start once in `crashes` or `refusals`, whatever is tried again. Raises NotOurs."""
        number = 0

        def count(effect: Effect) -> None:
            nonlocal number
            row = self._ours(effect.session, claim)
            number = number or int(getattr(row, column)) + 1
            setattr(row, column, number)

        await self.apply(claim, count, None)
        return number

    async def put_back(self, claim: Claim, delay_s: float) -> None:
        """Queues the job for another start. Raises NotOurs."""
        await self.apply(claim, lambda _: None, "queued", not_before=self.now() + timedelta(seconds=delay_s))

    async def apply(
        self, claim: Claim, do: Callable[[Effect], None], state: str | None, **values: Any
    ) -> None:
        """Commits one callback and the row's new state in one transaction; tries again while the
        reason may pass. Raises NotOurs.
        """

        def apply(effect: Effect) -> None:
            row = effect.session.get(JobRow, claim.row)
            if tries and row is not None and (row.state, row.attempt) == (state, claim.attempt):
                return  # an earlier try was committed, and only the database's answer was lost
            if row is not None:
                row.cost = claim.cost
                effect.session.flush()
            do(effect)
            row = self._ours(effect.session, claim)
            row.updated_at = self.now()
            if state is not None:
                row.state, row.owner, row.lease_until = state, None, None
            for name, value in values.items():
                setattr(row, name, value)

        delay = Backoff(first=0.1, longest=5.0)
        tries = 0
        while True:
            try:
                return await self._store.write(apply)
            except DatabaseAway as error:
                tries = tries or 1  # it does not count, however long that takes
                log.warning("job_waits", why=str(error))
            except Exception as error:
                tries += 1
                if tries > REFUSALS or isinstance(error, NotOurs) or not may_pass(error):
                    raise
                log.warning("job_waits", why=f"{type(error).__name__}: {error}")
            await asyncio.sleep(delay.next())

    def _ours(self, session: Session, claim: Claim) -> JobRow:
        """The row, locked. Raises NotOurs."""
        row = session.get(JobRow, claim.row, with_for_update=True)
        if row is None or (row.state, row.owner, row.attempt) != ("running", self._owner, claim.attempt):
            raise NotOurs
        return row

    def readings(self) -> Readings:
        """Jobs of all replicas; each reading blocks for a read."""
        return {metrics.JOBS: self._counts, metrics.JOB_WAIT: self._longest_wait}

    def _counts(self) -> list[Reading]:
        query = select(JobRow.state, func.count()).where(self._kind).group_by(JobRow.state)
        with self._store.snapshot() as session:
            found = dict(session.execute(query).all())
        states = ("queued", "running")
        return [(float(found.get(state, 0)), {"kind": self.kind, "state": state}) for state in states]

    def _longest_wait(self) -> list[Reading]:
        oldest = select(func.min(JobRow.updated_at)).where(self._kind, JobRow.state == "queued")
        with self._store.snapshot() as session:
            since = session.scalar(oldest)
        return [((self.now() - since).total_seconds() if since else 0.0, {"kind": self.kind})]
