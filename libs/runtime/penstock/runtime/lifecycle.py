"""A service from start to stop: logs, traces, health, signals; what was opened closes in reverse order.

On SIGTERM: NOT_SERVING, stop consuming, finish what is in flight, flush, close. Start-up order
between services never matters: each says what it waits for and goes on by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Self, TypeVar

import grpc
import structlog
from sqlalchemy import MetaData

from penstock.contracts import metrics
from penstock.contracts.errors import Unavailable
from penstock.contracts.topics import SHARED
from penstock.runtime import rpc
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.backoff import Backoff
from penstock.runtime.broker import ControlPlane, Router
from penstock.runtime.database import TRY_EVERY_S, DatabaseAway, persistently, watch
from penstock.runtime.jobs import Callbacks, Child, Jobs, OnFailure, OnProgress, OnResult, Policy
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.logging import configure_logging
from penstock.runtime.metrics import Readings, observed
from penstock.runtime.readiness import Readiness
from penstock.runtime.restore import Phases, Restored
from penstock.runtime.server import Server
from penstock.runtime.settings import ServiceSettings, read_or_exit
from penstock.runtime.status import Facts
from penstock.runtime.store import Store
from penstock.runtime.telemetry import configure_telemetry
from penstock.runtime.usage import usage

S = TypeVar("S", bound=ServiceSettings)

EXIT_FAILED = 70  # sysexits' EX_SOFTWARE: a part failed for good; the supervisor starts the process again
STOPS_WITHIN_S = 18.0  # seconds; shorter than what a supervisor gives it, so that it says what it waited for


class Service:
    """One service process. `async with Service("ingest", settings) as service`, wire, `await
    service.until_stopped()`.
    """

    def __init__(self, name: str, settings: ServiceSettings) -> None:
        self.name = name
        self.settings = settings
        self.log: structlog.stdlib.BoundLogger = structlog.get_logger(f"penstock.{name}")
        self.readiness = Readiness(self.clock)
        self._traces = settings.platform.home.resolve() / "traces"
        self._stack = contextlib.AsyncExitStack()
        self._stopping = asyncio.Event()
        self._failure: str | None = None
        self._server = Server(name, self.readiness)
        self._phases = Phases(self.readiness, answer=self._server.let_in)
        self._routers: list[Router] = []
        self._store: Store | None = None

    @staticmethod
    def clock() -> datetime:
        return datetime.now(UTC)

    async def __aenter__(self) -> Self:
        configure_logging(self.name, self.settings.platform.log_level)
        self._stack.callback(configure_telemetry(self.name, self._traces, replica=self.settings.replica))
        self._stack.push_async_callback(self._server.stop)
        self.observe(
            {
                metrics.READY: lambda: [(float(self.readiness.ready), {})],
                metrics.WAITING: lambda: [  # by the first word: what follows may name one pipeline of many
                    (1.0, {"thing": wait.thing.partition(" ")[0]}) for wait in self.readiness.waiting
                ],
                **usage(self.settings.data_dir),
            }
        )
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stopping.set)
        self.readiness.waits_for("start", "wiring")
        return self

    async def __aexit__(self, error: type[BaseException] | None, *_: object) -> None:
        await self._stack.aclose()
        if error is None and self._failure is not None:
            self.log.error("stopped_by_failure", reason=self._failure)
            sys.exit(EXIT_FAILED)

    @cached_property
    def artifacts(self) -> Artifacts:
        """Connects to nothing. Raises Invalid where they are in S3 and the extra `s3` is not installed."""
        return Artifacts(self.settings.platform.artifacts_uri)

    async def store(self, tables: MetaData, migrations: str) -> Store:
        """The service's database, migrated; carries inbox, outbox and jobs. While it does not
        answer, health and status do.
        """
        delay = Backoff(first=0.2, longest=2.0)
        while True:
            try:
                store = await asyncio.to_thread(
                    Store.open, self.settings.database_url, tables, migrations=migrations
                )
                break
            except Unavailable as error:
                self.readiness.waits_for(error.where or "database", error.message)
                await self._server.listen(self.settings.address)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), delay.next())
                    raise SystemExit(0) from None
        self._stack.callback(store.close)
        self._store = store
        self.background("database", lambda: watch(store.database, self.readiness))
        return store

    async def restores(self, *states: Restored, before_calls: bool = True) -> None:
        """State that is read from topics, in this order, before any handler or stream runs and any
        call is answered; calls are UNAVAILABLE meanwhile, with the reason.

        `before_calls=False`: calls do not wait for it, since they are answered from the database.
        """
        for state in states:
            await persistently(state.look)
            self._phases.add(state, before_calls=before_calls)

    def serve(self, register: Callable[[Any, Any], None], servicer: object, *, always: bool = False) -> None:
        """Adds a servicer: `service.serve(add_XServicer_to_server, X(...))`.

        `always`: it is called from the first moment on, whatever the service waits for.
        """
        self._server.add(register, servicer, always=always)

    def consume(self, router: Router) -> None:
        """Control events in: handlers with inbox, effect and outbox. Raises ValueError for replays,
        which belong to what `restores` takes.
        """
        if router.replays:
            raise ValueError(f"{router.group} reads topics from their beginning; use service.restores")
        self._routers.append(router)

    def stream(self, name: str, run: Callable[[threading.Event], None]) -> None:
        """A data-plane stream, in a thread of its own that ends soon after its event is set."""

        async def begin() -> None:
            await self._phases.completed()
            self.thread(name, run)

        self.background(name, begin)

    def channel(self, peer: str) -> grpc.aio.Channel:
        """A channel to another service; connects at the first call."""
        channel = rpc.connect(self.settings.platform.peer(peer))
        self._stack.push_async_callback(channel.close)
        return channel

    def jobs(
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
        environment: Mapping[str, str] | None = None,
    ) -> Jobs:
        """Workers for one kind of long work, wished for by `effect.enqueue(kind, job_id, payload)`."""
        jobs = Jobs(
            kind,
            Child(module, self.name, self.settings.platform.log_level, self._traces, environment or {}),
            Callbacks(on_result, on_failure, on_progress),
            store=store,
            policy=Policy(attempts, parallel),
            owner=f"{self.name}/{self.settings.replica}",
        )
        self.observe(jobs.readings())
        self.background(f"jobs/{kind}", jobs.run)
        return jobs

    def background(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A task for as long as the service lives. If it raises, the service stops with an error
        and is started again.

        If what it raises is that the service's database is away, it alone begins anew, until the
        database is there.
        """

        async def supervised() -> None:
            while True:
                try:
                    return await work()
                except asyncio.CancelledError:
                    raise
                except DatabaseAway:
                    await asyncio.sleep(TRY_EVERY_S)
                except Exception:
                    self.log.exception("background_failed", task=name)
                    return self.fail(f"{name} failed")

        self._stack.push_async_callback(_cancel, asyncio.create_task(supervised(), name=name))

    def thread(self, name: str, work: Callable[[threading.Event], None]) -> None:
        """The same for a blocking loop, which ends soon after its event is set."""
        stop = threading.Event()

        def supervised() -> None:
            try:
                work(stop)
            except Exception:
                self.log.exception("thread_failed", thread=name)
                self._loop.call_soon_threadsafe(self.fail, f"{name} failed")

        thread = threading.Thread(target=supervised, name=name)
        thread.start()

        async def join() -> None:
            stop.set()
            await asyncio.to_thread(thread.join)

        self._stack.push_async_callback(join)

    def observe(self, readings: Readings) -> None:
        """Metrics that are read when they are exported, from the exporter's thread, as long as the
        service lives.
        """
        for metric, read in readings.items():
            self._stack.enter_context(observed(metric, read))

    def describe(self, read: Callable[[], Facts]) -> None:
        """Facts for `penstock status`, read in a thread each time somebody asks. It may block."""
        self._server.status.readers.append(read)

    def fail(self, reason: str) -> None:
        """Stops the process with exit code 70. From the event loop's thread."""
        self._failure = self._failure or reason
        self._stopping.set()

    async def until_stopped(self) -> None:
        """Serves until SIGTERM or until a part fails for good."""
        controls = bool(self._routers or self._phases.routers or self._store)
        if controls:
            self.readiness.waits_for("kafka", "connecting")
        self._phases.begin()
        await self._server.listen(self.settings.address)
        self._stack.push_async_callback(self._server.stop)  # before what was wired so far, after what follows
        if controls:
            self.background("control-plane", self._control_plane)
        self.background("phases", self._phases.run)
        await self._server.follow_readiness()
        await self._stopping.wait()
        self.log.info("stopping")
        end_after(STOPS_WITHIN_S)
        await self._server.leave()

    async def _control_plane(self) -> None:
        """Makes the topics that this service needs as soon as Kafka answers, then consumes, replays
        and relays until the end.
        """
        kafka = self.settings.platform.kafka
        needed = [topic for topic in SHARED if self.name == topic.owner or self.name in topic.consumers]
        backoff = Backoff(first=0.2, longest=5.0)
        tries = 0
        while True:
            try:
                await asyncio.to_thread(ensure_topics, kafka, needed)
                break
            except Unavailable as error:
                tries += 1
                delay = backoff.next()
                self.readiness.waits_for("kafka", f"{error.message}, {tries} tries, again in {delay:.0f} s")
                await asyncio.sleep(delay)
        plane = ControlPlane(
            self.name,
            kafka,
            [*self._phases.routers, *self._routers],
            store=self._store,
            replica=self.settings.replica,
            readiness=self.readiness,
        )
        await plane.run(after=self._phases.completed)


def end_after(seconds: float) -> None:
    """Ends this process after `seconds` if it still lives then, with exit code 70 and what each of
    its threads waits for. What was acknowledged is durable.
    """

    def end() -> None:
        structlog.get_logger(__name__).error("not_stopped", within_s=seconds)
        faulthandler.dump_traceback()
        os._exit(EXIT_FAILED)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def start(run: Callable[[S], Coroutine[Any, Any, None]], settings: Callable[[], S]) -> None:
    """`__main__`'s one line. A setting that is wrong ends it with a sentence, not a traceback."""
    asyncio.run(run(read_or_exit(settings)))
