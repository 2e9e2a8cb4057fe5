"""The workers of one kind of job: start a child process a job, and apply what it says."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from penstock.contracts import metrics
from penstock.contracts.errors import Kind, PenstockError, Unavailable
from penstock.runtime.child import error_said
from penstock.runtime.jobs.policy import (
    DEFAULT_POLICY,
    LONGEST_DELAY_S,
    Failure,
    Policy,
    crashed,
    how_it_died,
)
from penstock.runtime.jobs.process import Child, JobProcess
from penstock.runtime.jobs.queue import LOOK_EVERY_S, Claim, JobQueue, NotOurs
from penstock.runtime.metrics import Readings, histogram
from penstock.runtime.store import Effect, Store, Wish
from penstock.runtime.telemetry import context_of, span
from penstock.runtime.usage import resident_bytes

log = structlog.get_logger(__name__)
_DURATION = histogram(metrics.JOB_DURATION)

GRACE_S = 8.0  # seconds that a child has to end after SIGTERM, or after it told its end

OnResult = Callable[[str, dict[str, Any], Effect], None]
OnProgress = OnResult
OnFailure = Callable[[str, Kind, str, str, Effect], None]


@dataclass(frozen=True)
class Callbacks:
    """Effects of a job's messages in the service's database. Called on the database writer's thread,
    within the transaction: `on_result(job_id, result, effect)`, `on_failure(job_id, kind, message,
    remedy, effect)`, `on_progress(job_id, message, effect)`.
    """

    on_result: OnResult
    on_failure: OnFailure
    on_progress: OnProgress | None = None


class Jobs:
    """The workers of one kind of job in one replica. `run()` is a background task of the service;
    enqueue with `Effect.enqueue`.
    """

    def __init__(
        self,
        kind: str,
        child: Child,
        callbacks: Callbacks,
        *,
        store: Store,
        policy: Policy = DEFAULT_POLICY,
        owner: str = "0",
    ) -> None:
        """`owner` names this replica: after its death its next life takes its jobs back at once,
        another replica when the lease ends.
        """
        self.kind = kind
        self._child = child
        self._callbacks = callbacks
        self._store = store
        self._policy = policy
        self._queue = JobQueue(kind, store, owner, policy.lease)
        self._running: dict[int, asyncio.Task[None]] = {}
        self._processes: dict[int, JobProcess] = {}
        self._woken = asyncio.Event()
        self._stopping = False

    async def run(self) -> None:
        """Works until cancelled; then children get SIGTERM and some seconds, and unfinished jobs go
        back to the queue, to be gone on with.
        """
        loop = asyncio.get_running_loop()

        def heard(wish: Wish) -> None:
            if wish in ("enqueue", "cancel") and not loop.is_closed():
                loop.call_soon_threadsafe(self._woken.set)

        self._store.on_commit(heard)
        try:
            await self._follow_the_queue()
        finally:
            await self._stop()
            self._child.close(self.kind)

    async def _follow_the_queue(self) -> None:
        taken_back = False
        while True:
            self._woken.clear()
            try:
                if not taken_back:
                    await self._queue.take_back()
                    taken_back = True
                next_look = await self._look()
            except Unavailable as error:
                log.warning("jobs_wait", kind=self.kind, why=str(error))
                next_look = LOOK_EVERY_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(next_look):
                    await self._woken.wait()

    async def _look(self) -> float:
        """Kills what is not ours, starts what may start; returns in how many seconds to look again."""
        if alive := dict(self._processes):
            held = await self._queue.held(alive)
            for row in alive.keys() - held:
                alive[row].signal(signal.SIGKILL)
        while len(self._running) < self._policy.parallel:
            claim = await self._queue.claim(self._running, lambda: self._stopping)
            if claim is None:
                return await self._queue.next_look(self._running)
            name = f"{self.kind}/{claim.job_id}"
            self._running[claim.row] = asyncio.create_task(self._work(claim), name=name)
        return LOOK_EVERY_S

    async def _stop(self) -> None:
        self._stopping = True
        tasks = set(self._running.values())
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self._processes.values():
                process.signal(number)
            if tasks:
                await asyncio.wait(tasks, timeout=GRACE_S)

    async def _work(self, claim: Claim) -> None:
        """Starts the job once, within the trace of its enqueuer, as are the events that its callbacks
        publish.
        """
        parent = context_of({"traceparent": claim.traceparent} if claim.traceparent else {})
        about: dict[str, str | int] = {"job.id": claim.job_id, "job.attempt": claim.attempt}
        with (
            structlog.contextvars.bound_contextvars(kind=self.kind, job=claim.job_id, attempt=claim.attempt),
            span(f"run {self.kind}", parent, **about),
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
                await self._put_back_after_fault(claim)
            finally:
                _DURATION.record(time.perf_counter() - began, {"kind": self.kind, "outcome": outcome})
                del self._running[claim.row]
                self._woken.set()

    async def _run_child(self, claim: Claim) -> str:
        process = await self._child.start(self.kind, claim)
        self._processes[claim.row] = process
        if self._stopping:
            process.signal(signal.SIGTERM)
        self._woken.set()  # it may have been canceled while it started
        renewing = asyncio.create_task(self._renew(claim, process))
        try:
            done, failure = await self._listen(claim, process)
            code = await process.ended(GRACE_S if done or failure is not None else None)
            claim.spent = process.cost
        finally:
            renewing.cancel()
            await process.ended(0)
            del self._processes[claim.row]
        if done:
            log.info("job_done")
            return "done"
        if failure is not None:
            return await self._failed(claim, failure)
        lease_lost = renewing.done() and not renewing.cancelled() and renewing.result()
        if self._stopping or lease_lost:
            await self._queue.put_back(claim, 0.0)
            why = "the service stops" if self._stopping else "its lease could not be renewed"
            log.info("job_put_back", why=why)
            return "stopped"
        await self._crashed(claim, code, list(process.last_lines))
        return "crashed"

    async def _listen(self, claim: Claim, process: JobProcess) -> tuple[bool, Failure | None]:
        """Applies each message until the child's end; whether its result is durable, or why not."""
        while (message := await process.message()) is not None:
            if "progress" in message:
                await self._apply_progress(claim, message["progress"])
                continue
            claim.spent = process.cost
            if "error" in message:
                return False, Failure.of(message["error"])
            failure = await self._apply_result(claim, message["result"])
            return failure is None, failure
        return False, None

    async def _renew(self, claim: Claim, process: JobProcess) -> bool:
        """Renews the lease while the child lives. A lease that is lost, or cannot be renewed in
        time, ends the child: another replica may have the job. Returns whether it could not be
        renewed.
        """
        held_until = self._queue.now() + self._policy.lease
        while True:
            await asyncio.sleep(self._policy.lease.total_seconds() / 3)
            claim.spent = process.look()
            try:
                held_until = await self._queue.hold(claim)
            except NotOurs:
                process.signal(signal.SIGKILL)
                return False
            except Exception as error:
                log.warning("lease_not_renewed", why=str(error))
                if self._queue.now() >= held_until:
                    process.signal(signal.SIGKILL)
                    return True

    async def _apply_progress(self, claim: Claim, message: dict[str, Any]) -> None:
        on_progress = self._callbacks.on_progress
        if on_progress is None:
            return
        try:
            await self._queue.apply(claim, partial(on_progress, claim.job_id, message), None)
        except NotOurs:
            raise
        except Exception:  # progress is news, not the work
            log.exception("job_progress_lost")

    async def _apply_result(self, claim: Claim, result: dict[str, Any]) -> Failure | None:
        """None once the result is durable; a Failure where the service will not take it."""
        try:
            await self._queue.apply(claim, partial(self._callbacks.on_result, claim.job_id, result), "done")
        except NotOurs:
            raise
        except PenstockError as error:
            return Failure.of(error_said(error))
        except Exception as error:
            log.exception("job_result_refused")
            remedy = "Look for job_result_refused in the service's log"
            return Failure(Kind.INTERNAL, f"its result could not be stored: {error}", remedy)
        return None

    async def _failed(self, claim: Claim, failure: Failure) -> str:
        if failure.may_pass:
            refusals = await self._queue.count(claim, "refusals")
            if (delay := self._policy.delay_s("refusals", refusals)) is not None:
                log.warning("job_retried", why=failure.message, again_in_s=delay)
                await self._queue.put_back(claim, delay)
                return "retried"
        log.error("job_failed", failure_kind=failure.kind.value, why=failure.message)
        await self._end_in_failure(claim, failure)
        return "failed"

    async def _crashed(self, claim: Claim, code: int, last_lines: list[str]) -> None:
        crashes = await self._queue.count(claim, "crashes")
        of = self._policy.attempts
        log.error("job_crashed", why=how_it_died(code), crashes=crashes, of=of, last_lines=last_lines)
        if (delay := self._policy.delay_s("crashes", crashes)) is not None:
            await self._queue.put_back(claim, delay)
        else:
            await self._end_in_failure(claim, crashed(code, crashes))

    async def _end_in_failure(self, claim: Claim, failure: Failure) -> None:
        told = {"failure_kind": failure.kind.value, "failure": failure.message}
        said = (claim.job_id, failure.kind, failure.message, failure.remedy)
        try:
            await self._queue.apply(claim, partial(self._callbacks.on_failure, *said), "failed", **told)
        except NotOurs:
            raise
        except Exception:
            log.exception("job_failure_untold")
            await self._queue.apply(claim, lambda _: None, "failed", **told)

    async def _put_back_after_fault(self, claim: Claim) -> None:
        """Queues the job for later: the fault is the service's own, as a full disk is."""
        try:
            await self._queue.put_back(claim, LONGEST_DELAY_S)
        except NotOurs:
            return
        except Exception:
            log.exception("job_left_to_its_lease")

    def readings(self) -> Readings:
        return {metrics.JOB_MEMORY: lambda: [(self._memory(), {"kind": self.kind})], **self._queue.readings()}

    def _memory(self) -> float:
        used = 0
        for process in list(self._processes.values()):
            with contextlib.suppress(OSError):  # it has just ended
                used += resident_bytes(process.pid) if process.pid is not None else 0
        return float(used)
