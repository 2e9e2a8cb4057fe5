"""Long work: durable jobs, each in a child process with its own memory and its own crash.

A job is a row. A worker claims it under a lease, starts the child, and applies what the child says:
each message in one transaction with the events that follow from it. A job whose result was applied
never runs again; one whose child crashed, or whose service died, does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import structlog
from opentelemetry import trace
from sqlalchemy import ColumnElement, Select, and_, func, or_, select, update
from sqlalchemy.orm import Session

from penstock.contracts import metrics
from penstock.contracts.errors import TREATMENTS, Kind, PenstockError, Unavailable
from penstock.runtime.backoff import Backoff
from penstock.runtime.child import JobContext, job_main
from penstock.runtime.database import DatabaseAway
from penstock.runtime.metrics import Reading, histogram, observed
from penstock.runtime.process import JobProcess, how_it_died
from penstock.runtime.router import may_pass
from penstock.runtime.store import Effect, Store, Wish
from penstock.runtime.tables import JobRow
from penstock.runtime.telemetry import context_of, current_traceparent
from penstock.runtime.usage import resident_bytes

__all__ = ["JobContext", "Jobs", "job_main"]

log = structlog.get_logger(__name__)
tracer = trace.get_tracer(__name__)
_DURATION = histogram(metrics.JOB_DURATION)

LOOK_EVERY_S = 5.0
"""Besides being woken: for leases of replicas that died."""
GRACE_S = 8.0
REFUSALS = 20
"""Starts that may end in an error of a kind that may pass, about ten minutes in all."""
_LONGEST_WAIT_S = 30.0


class OnProgress(Protocol):
    """Called on the database writer's thread, within the transaction; so are the two below."""

    def __call__(self, job_id: str, message: dict[str, Any], effect: Effect, /) -> None: ...


class OnResult(Protocol):
    def __call__(self, job_id: str, result: dict[str, Any], effect: Effect, /) -> None: ...


class OnFailure(Protocol):
    def __call__(self, job_id: str, kind: Kind, message: str, remedy: str, effect: Effect, /) -> None: ...


class NotOurs(Exception):
    """Somebody canceled the job or took it over."""


@dataclass(frozen=True)
class Claim:
    """One start of one job."""

    row: int
    job_id: str
    attempt: int
    payload: dict[str, Any]
    traceparent: str | None


@dataclass(frozen=True)
class Failure:
    """The child's own words for why it cannot."""

    kind: Kind
    message: str
    remedy: str


class Jobs:
    """The workers of one kind of job in one replica. `run()` is a background task of the service;
    enqueue with `Effect.enqueue`.
    """

    def __init__(
        self,
        kind: str,
        *,
        module: str,
        store: Store,
        on_result: OnResult,
        on_failure: OnFailure,
        on_progress: OnProgress | None = None,
        attempts: int = 3,
        parallel: int = 1,
        owner: str = "0",
        service: str = "job",
        log_level: str | None = None,
        traces: Path | None = None,
        environment: Mapping[str, str] | None = None,
        lease: timedelta = timedelta(seconds=15),
        backoff_s: float = 1.0,
    ) -> None:
        """`owner` names this replica: after its death its next life takes its jobs back at once,
        another replica when the lease ends.

        `attempts` bounds the starts whose process crashed. Starts that the service's own end cut
        short are not counted. The child's logs and spans look like the service's where `log_level`
        (and `traces`, a folder) say how; else it sets up its own. `environment` is added to the
        service's own for the child.
        """
        self.kind = kind
        self._module = module
        self._store = store
        self._on_result = on_result
        self._on_failure = on_failure
        self._on_progress = on_progress
        self._attempts = attempts
        self._parallel = parallel
        self._owner = owner
        self._request = {
            "kind": kind,
            "service": service,
            "log_level": log_level,
            "traces": str(traces) if traces else None,
        }
        self._environment = environment or {}
        self._lease = lease
        self._backoff_s = backoff_s
        self._running: dict[int, tuple[asyncio.Task[None], JobProcess | None]] = {}
        self._woken = asyncio.Event()
        self._stopping = False

    async def run(self) -> None:
        """Until cancelled; then children get SIGTERM and some seconds, and unfinished jobs go back
        to the queue, to be gone on with.
        """
        loop = asyncio.get_running_loop()

        def heard(wish: Wish) -> None:
            if wish in ("enqueue", "cancel") and not loop.is_closed():
                loop.call_soon_threadsafe(self._woken.set)

        self._store.on_commit(heard)
        with contextlib.ExitStack() as measured:
            for metric, read in (
                (metrics.JOBS, self._counts),
                (metrics.JOB_WAIT, self._longest_wait),
                (metrics.JOB_MEMORY, self._memory),
            ):
                measured.enter_context(observed(metric, read))
            try:
                await self._follow_the_queue()
            finally:
                await self._stop()

    async def _follow_the_queue(self) -> None:
        taken_back = False
        while True:
            self._woken.clear()
            try:
                taken_back = taken_back or await self._take_back()
                next_look = await self._look()
            except Unavailable as error:
                log.warning("jobs_wait", kind=self.kind, why=str(error))
                next_look = LOOK_EVERY_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(next_look):
                    await self._woken.wait()

    async def _look(self) -> float:
        """Ends what is not ours, starts what may start; in how many seconds to look again."""
        await self._end_what_is_not_ours()
        while len(self._running) < self._parallel and (claim := await self._claim()) is not None:
            self._running[claim.row] = (
                asyncio.create_task(self._work(claim), name=f"{self.kind}/{claim.job_id}"),
                None,
            )
        return await self._next_look()

    # -- the queue ---------------------------------------------------------------------------------

    async def _take_back(self) -> bool:
        """A replica's name is its own: whatever runs under it was started by a process that is
        dead, and its children with it.
        """
        ours = and_(JobRow.kind == self.kind, JobRow.state == "running", JobRow.owner == self._owner)
        left = await self._store.read(
            lambda session: session.scalars(select(JobRow.job_id).where(ours)).all()
        )
        if left:
            queued = update(JobRow).where(ours).values(state="queued", owner=None, lease_until=None)
            await self._store.write(lambda effect: effect.session.execute(queued))
            log.warning("jobs_taken_back", kind=self.kind, jobs=list(left))
        return True

    async def _claim(self) -> Claim | None:
        if await self._store.read(lambda session: session.scalar(self._claimable())) is None:
            return None
        return await self._store.write(self._claimed)

    def _claimed(self, effect: Effect) -> Claim | None:
        row = effect.session.scalar(self._claimable().with_for_update(skip_locked=True))
        if row is None or self._stopping:
            return None
        now = self._store.clock()  # not of the call: it may have waited for another writer
        if row.state == "running":
            log.warning("job_taken_over", kind=self.kind, job=row.job_id, of=row.owner)
        row.state, row.owner, row.attempt, row.updated_at = "running", self._owner, row.attempt + 1, now
        row.lease_until = now + self._lease
        return Claim(row.id, row.job_id, row.attempt, row.payload, row.traceparent)

    def _claimable(self) -> Select[JobRow]:
        """The first job that may be started here."""
        now = self._store.clock()
        waiting = and_(JobRow.state == "queued", JobRow.not_before <= now)
        abandoned = and_(JobRow.state == "running", JobRow.lease_until < now)
        ours = and_(JobRow.kind == self.kind, self._not_in_hand(), or_(waiting, abandoned))
        return select(JobRow).where(ours).order_by(JobRow.id).limit(1)

    def _not_in_hand(self) -> ColumnElement[bool]:
        """What a worker of ours has is not for another one, though its lease ran out while the
        database was away.
        """
        return JobRow.id.not_in(list(self._running))

    async def _next_look(self) -> float:
        if len(self._running) >= self._parallel:
            return LOOK_EVERY_S
        waiting = select(func.min(JobRow.not_before)).where(
            JobRow.kind == self.kind, JobRow.state == "queued"
        )
        leased = select(func.min(JobRow.lease_until)).where(
            JobRow.kind == self.kind, JobRow.state == "running", self._not_in_hand()
        )
        found = await self._store.read(lambda session: (session.scalar(waiting), session.scalar(leased)))
        now = self._store.clock()
        return min([LOOK_EVERY_S, *(max(0.01, (at - now).total_seconds()) for at in found if at is not None)])

    def _ours(self, session: Session, claim: Claim) -> JobRow:
        """The row, locked. Raises NotOurs."""
        row = session.get(JobRow, claim.row, with_for_update=True)
        if row is None or (row.state, row.owner, row.attempt) != ("running", self._owner, claim.attempt):
            raise NotOurs
        return row

    async def _end_what_is_not_ours(self) -> None:
        looked_at = dict(self._running)
        if not looked_at:
            return
        ours = select(JobRow.id).where(
            JobRow.id.in_(list(looked_at)), JobRow.state == "running", JobRow.owner == self._owner
        )
        held = await self._store.read(lambda session: set(session.scalars(ours)))
        for row, (_, process) in looked_at.items():
            if row not in held and process is not None:
                process.signal(signal.SIGKILL)

    # -- one job -----------------------------------------------------------------------------------

    async def _work(self, claim: Claim) -> None:
        """One start, within the trace of who enqueued it: so are the events that its callbacks publish."""
        parent = context_of({"traceparent": claim.traceparent} if claim.traceparent else {})
        attributes: dict[str, str | int] = {"job.id": claim.job_id, "job.attempt": claim.attempt}
        with (
            structlog.contextvars.bound_contextvars(kind=self.kind, job=claim.job_id, attempt=claim.attempt),
            tracer.start_as_current_span(f"run {self.kind}", context=parent, attributes=attributes),
        ):
            began = time.perf_counter()
            outcome = "canceled"
            try:
                outcome = await self._run_child(claim)
            except NotOurs:
                log.info("job_given_up")
            except Exception:
                outcome = "retried"
                log.exception("job_broken")
                await self._requeue_after_fault(claim)
            finally:
                _DURATION.record(time.perf_counter() - began, {"kind": self.kind, "outcome": outcome})
                del self._running[claim.row]
                self._woken.set()

    async def _run_child(self, claim: Claim) -> str:
        """How it ended, as `penstock.job.duration` names it."""
        request = self._request | {
            "job_id": claim.job_id,
            "payload": claim.payload,
            "attempt": claim.attempt,
            "traceparent": current_traceparent(),
        }
        process = await JobProcess.start(self._module, request, {**os.environ, **self._environment})
        self._running[claim.row] = (self._running[claim.row][0], process)
        log.info("job_started", pid=process.pid)
        if self._stopping:
            process.signal(signal.SIGTERM)
        self._woken.set()  # it may have been canceled while it started
        renewing = asyncio.create_task(self._renew(claim, process))
        outcome: Failure | None = None
        done = False
        try:
            while not (done or outcome) and (message := await process.message()) is not None:
                if "progress" in message:
                    await self._apply_progress(claim, message["progress"])
                elif "error" in message:
                    outcome = _failure_of(message["error"])
                else:
                    outcome = await self._apply_result(claim, message["result"])
                    done = outcome is None
            code = await self._wait_for_end(process, told=done or outcome is not None)
        finally:
            renewing.cancel()
            process.close()
        lease_lost = renewing.done() and not renewing.cancelled() and renewing.result()
        if done:
            log.info("job_done")
            return "done"
        if outcome is not None:
            return await self._failed(claim, outcome)
        if self._stopping or lease_lost:
            await self._put_back(claim, delay_s=0.0)
            log.info(
                "job_put_back",
                why="the service stops" if self._stopping else "its lease could not be renewed",
            )
            return "stopped"
        await self._crashed(claim, code, process.last_lines)
        return "crashed"

    async def _wait_for_end(self, process: JobProcess, *, told: bool) -> int:
        """A child that has told its end has some seconds to leave."""
        try:
            async with asyncio.timeout(GRACE_S if told else None):
                return await process.ended()
        except TimeoutError:
            process.signal(signal.SIGKILL)
            return await process.ended()

    async def _renew(self, claim: Claim, process: JobProcess) -> bool:
        """While the child lives. A lease that is lost, or cannot be renewed in time, ends the
        child: another replica may have the job.

        Whether it could not be renewed.
        """
        held_until = self._store.clock() + self._lease
        while True:
            await asyncio.sleep(self._lease.total_seconds() / 3)
            try:
                held_until = await self._store.write(partial(self._hold, claim))
            except NotOurs:
                process.signal(signal.SIGKILL)
                return False
            except Exception as error:
                log.warning("lease_not_renewed", why=str(error))
                if self._store.clock() >= held_until:
                    process.signal(signal.SIGKILL)
                    return True

    def _hold(self, claim: Claim, effect: Effect) -> datetime:
        """Until when the job is ours now."""
        row = self._ours(effect.session, claim)
        row.lease_until = until = self._store.clock() + self._lease
        return until

    async def _apply_progress(self, claim: Claim, message: dict[str, Any]) -> None:
        if self._on_progress is None:
            return
        on_progress = self._on_progress
        try:
            await self._apply(claim, lambda effect: on_progress(claim.job_id, message, effect), None)
        except NotOurs:
            raise
        except Exception:  # progress is news, not the work
            log.exception("job_progress_lost")

    async def _apply_result(self, claim: Claim, result: dict[str, Any]) -> Failure | None:
        """None once the result is durable; a Failure where the service will not take it."""
        try:
            await self._apply(claim, lambda effect: self._on_result(claim.job_id, result, effect), "done")
        except NotOurs:
            raise
        except PenstockError as error:
            return _failure_of(
                {"kind": error.kind, "message": error.message, "where": error.where, "remedy": error.remedy}
            )
        except Exception as error:
            log.exception("job_result_refused")
            return Failure(
                Kind.INTERNAL,
                f"its result could not be stored: {error}",
                "Look for job_result_refused in the service's log",
            )
        return None

    async def _apply(
        self, claim: Claim, do: Callable[[Effect], None], state: str | None, **values: Any
    ) -> None:
        """One callback and the row's new state in one transaction; tried again while the reason may
        pass. Raises NotOurs.
        """

        def apply(effect: Effect) -> None:
            if tries and self._is_applied(effect.session, claim, state):
                return
            do(effect)
            row = self._ours(effect.session, claim)
            row.updated_at = self._store.clock()
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

    def _is_applied(self, session: Session, claim: Claim, state: str | None) -> bool:
        """Whether an earlier try was committed, and only the database's answer was lost. Raises NotOurs."""
        row = session.get(JobRow, claim.row)
        if row is not None and (row.state, row.attempt) == (state, claim.attempt):
            return True
        if row is None or (row.state, row.owner, row.attempt) != ("running", self._owner, claim.attempt):
            raise NotOurs
        return False

    # -- ends that are no result -------------------------------------------------------------------

    async def _failed(self, claim: Claim, failure: Failure) -> str:
        if TREATMENTS[failure.kind].retry:
            refusals = await self._count(claim, "refusals")
            if refusals <= REFUSALS:
                delay = min(self._backoff_s * 2.0 ** (refusals - 1), _LONGEST_WAIT_S)
                log.warning("job_retried", why=failure.message, again_in_s=delay)
                await self._put_back(claim, delay_s=delay)
                return "retried"
        log.error("job_failed", failure_kind=failure.kind.value, why=failure.message)
        await self._end_in_failure(claim, failure)
        return "failed"

    async def _crashed(self, claim: Claim, code: int, last_lines: list[str]) -> None:
        crashes = await self._count(claim, "crashes")
        log.error(
            "job_crashed", why=how_it_died(code), crashes=crashes, of=self._attempts, last_lines=last_lines
        )
        if crashes < self._attempts:
            await self._put_back(claim, delay_s=min(self._backoff_s * 2.0 ** (crashes - 1), _LONGEST_WAIT_S))
            return
        times = f"{crashes} times, the last time it" if crashes > 1 else "and"
        message = f"its process died {times} {how_it_died(code)}"
        remedy = (
            "SIGKILL often means that memory ran out"
            if code == -signal.SIGKILL
            else "Look for job_crashed in the service's log"
        )
        await self._end_in_failure(claim, Failure(Kind.INTERNAL, message, remedy))

    async def _end_in_failure(self, claim: Claim, failure: Failure) -> None:
        told = {"failure_kind": failure.kind.value, "failure": failure.message}
        try:
            await self._apply(
                claim,
                lambda effect: self._on_failure(
                    claim.job_id, failure.kind, failure.message, failure.remedy, effect
                ),
                "failed",
                **told,
            )
        except NotOurs:
            raise
        except Exception:
            log.exception("job_failure_untold")
            await self._apply(claim, lambda _: None, "failed", **told)

    async def _put_back(self, claim: Claim, *, delay_s: float) -> None:
        await self._apply(
            claim, lambda _: None, "queued", not_before=self._store.clock() + timedelta(seconds=delay_s)
        )

    async def _requeue_after_fault(self, claim: Claim) -> None:
        """The fault is the service's own, a full disk or no process to be had: later."""
        try:
            await self._put_back(claim, delay_s=_LONGEST_WAIT_S)
        except NotOurs:
            return
        except Exception:
            log.exception("job_left_to_its_lease")

    async def _count(self, claim: Claim, column: str) -> int:
        """Counts this start once, whatever is tried again."""
        number = 0

        def count(effect: Effect) -> None:
            nonlocal number
            row = self._ours(effect.session, claim)
            number = number or int(getattr(row, column)) + 1
            setattr(row, column, number)

        await self._apply(claim, count, None)
        return number

    # -- what is measured --------------------------------------------------------------------------

    def _counts(self) -> list[Reading]:
        """Of this kind in the database, of all replicas."""
        query = select(JobRow.state, func.count()).where(
            JobRow.kind == self.kind, JobRow.state.in_(("queued", "running"))
        )
        with self._store.snapshot() as session:
            found = dict(session.execute(query.group_by(JobRow.state)).tuples().all())
        return [
            (float(found.get(state, 0)), {"kind": self.kind, "state": state})
            for state in ("queued", "running")
        ]

    def _longest_wait(self) -> list[Reading]:
        oldest = select(func.min(JobRow.updated_at)).where(JobRow.kind == self.kind, JobRow.state == "queued")
        with self._store.snapshot() as session:
            since = session.scalar(oldest)
        return [((self._store.clock() - since).total_seconds() if since else 0.0, {"kind": self.kind})]

    def _memory(self) -> list[Reading]:
        used = 0
        for _, process in list(self._running.values()):
            if process is not None:
                with contextlib.suppress(OSError):  # it has just ended
                    used += resident_bytes(process.pid)
        return [(float(used), {"kind": self.kind})]

    async def _stop(self) -> None:
        self._stopping = True
        tasks = [task for task, _ in self._running.values()]
        for _, process in self._running.values():
            if process is not None:
                process.signal(signal.SIGTERM)
        if tasks:
            await asyncio.wait(tasks, timeout=GRACE_S)
        for _, process in list(self._running.values()):
            if process is not None:
                process.signal(signal.SIGKILL)
        if tasks:
            await asyncio.wait(tasks, timeout=GRACE_S)


def _failure_of(told: Mapping[str, Any]) -> Failure:
    where = f"{told['where']}: " if told.get("where") else ""
    # PostgreSQL stores no NUL.
    message, remedy = (
        text.replace("\0", "\ufffd") for text in (where + told["message"], told.get("remedy") or "")
    )
    return Failure(Kind(told["kind"]), message, remedy)
