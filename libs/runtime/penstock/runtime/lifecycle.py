"""A service of the platform: a process with a control plane, a database, streams and jobs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Mapping
from functools import cached_property
from typing import Any

import grpc
from sqlalchemy import MetaData

from penstock.contracts.errors import Unavailable
from penstock.contracts.services import SERVICES
from penstock.contracts.topics import SHARED
from penstock.runtime import rpc
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.backoff import Backoff
from penstock.runtime.broker import ControlPlane, Router
from penstock.runtime.database import persistently, watch
from penstock.runtime.jobs.policy import Policy
from penstock.runtime.jobs.process import Child
from penstock.runtime.jobs.worker import Callbacks, Jobs, OnFailure, OnProgress, OnResult
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.process import Process
from penstock.runtime.restore import Phases, Restored
from penstock.runtime.settings import ServiceSettings
from penstock.runtime.store import Store


class Service(Process):
    """A service process. `async with Service("ingest", settings) as service`, wire, `await
    service.until_stopped()`.
    """

    settings: ServiceSettings

    def __init__(self, name: str, settings: ServiceSettings) -> None:
        super().__init__(name, settings, filter(None, [SERVICES[name].grpc]))
        self._phases = Phases(self.readiness, answer=self._server.let_in)
        self._routers: list[Router] = []
        self._store: Store | None = None
        self._children: dict[str, Child] = {}  # of jobs, by module

    @cached_property
    def artifacts(self) -> Artifacts:
        """Connects to nothing. Raises Invalid where they are in S3 and the extra `s3` is not installed."""
        return Artifacts(self.settings.platform.artifact_roots)

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
        """Workers for one kind of long work, wished for by `effect.enqueue(kind, job_id, payload)`. Kinds
        of one module share what it has loaded.
        """
        if module not in self._children:
            about = self.name, self.settings.log_level, self.settings.traces
            self._children[module] = Child(module, *about, environment or {})
        jobs = Jobs(
            kind,
            self._children[module],
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
        super().background(name, lambda: persistently(work))

    async def until_stopped(self) -> None:
        """Serves until SIGTERM or until a part fails for good."""
        controls = bool(self._routers or self._phases.routers or self._store)
        if controls:
            self.readiness.waits_for("kafka", "connecting")
        self._phases.begin()
        await self._listen()
        if controls:
            self.background("control-plane", self._control_plane)
        self.background("phases", self._phases.run)
        await self._end()

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
