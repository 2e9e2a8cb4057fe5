"""A process from start to stop: logs, traces, health, signals; what was opened closes in reverse order.

On SIGTERM: NOT_SERVING, stop consuming, finish what is in flight, flush, close. Start-up order
between processes never matters: each says what it waits for and goes on by itself. Imports neither
Kafka's nor SQL's libraries: a site has none of them. `penstock.runtime.lifecycle.Service` adds both.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import structlog

from penstock.contracts import metrics
from penstock.runtime.logging import configure_logging
from penstock.runtime.metrics import Readings, observed
from penstock.runtime.readiness import Readiness
from penstock.runtime.server import Server
from penstock.runtime.settings import read_or_exit
from penstock.runtime.status import Facts
from penstock.runtime.telemetry import configure_telemetry
from penstock.runtime.usage import usage

EXIT_FAILED = 70  # sysexits' EX_SOFTWARE: a part failed for good; the supervisor starts the process again
STOPS_WITHIN_S = 18.0  # seconds; shorter than what a supervisor gives it, so that it says what it waited for


class ProcessSettings(Protocol):
    """Settings that every process has, whatever it is for."""

    @property
    def address(self) -> str:
        """host:port of its gRPC server."""

    @property
    def replica(self) -> str:
        """Name among its like."""

    @property
    def data_dir(self) -> Path:
        """Folder of its own files."""

    @property
    def traces(self) -> Path:
        """Folder of its spans where there is no collector."""

    @property
    def log_level(self) -> str: ...


S = TypeVar("S", bound=ProcessSettings)


class Process:
    """A process with a gRPC server. `async with Process("site", settings) as process`, wire,
    `await process.until_stopped()`.
    """

    def __init__(self, name: str, settings: ProcessSettings, grpc: Iterable[str] = ()) -> None:
        """`grpc`: full names of the gRPC services that health and reflection tell of."""
        self.name = name
        self.settings = settings
        self.log: structlog.stdlib.BoundLogger = structlog.get_logger(f"penstock.{name}")
        self.readiness = Readiness(self.clock)
        self._stack = contextlib.AsyncExitStack()
        self._stopping = asyncio.Event()
        self._failure: str | None = None
        self._server = Server(name, self.readiness, grpc)

    @staticmethod
    def clock() -> datetime:
        return datetime.now(UTC)

    async def __aenter__(self) -> Self:
        settings = self.settings
        configure_logging(self.name, settings.log_level)
        self._stack.callback(configure_telemetry(self.name, settings.traces, replica=settings.replica))
        self._stack.push_async_callback(self._server.stop)
        self.observe(
            {
                metrics.READY: lambda: [(float(self.readiness.ready), {})],
                metrics.WAITING: lambda: [  # by the first word: what follows may name one pipeline of many
                    (1.0, {"thing": wait.thing.partition(" ")[0]}) for wait in self.readiness.waiting
                ],
                **usage(settings.data_dir),
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

    def serve(self, register: Callable[[Any, Any], None], servicer: object, *, always: bool = False) -> None:
        """Adds a servicer: `service.serve(add_XServicer_to_server, X(...))`.

        `always`: it is called from the first moment on, whatever the service waits for.
        """
        self._server.add(register, servicer, always=always)

    def background(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A task for as long as the process lives. If it raises, the process stops with an error
        and is started again.
        """

        async def supervised() -> None:
            try:
                await work()
            except asyncio.CancelledError:
                raise
            except Exception:
                self.log.exception("background_failed", task=name)
                self.fail(f"{name} failed")

        self._stack.push_async_callback(_cancel, asyncio.create_task(supervised(), name=name))

    def thread(self, name: str, work: Callable[[threading.Event], None]) -> None:
        """Runs a blocking loop in a thread of its own, until its event is set at the end of the process.
        If it raises, the process stops with an error and is started again.
        """
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

    def closes(self, close: Callable[[], None]) -> None:
        """Calls `close` at the end, in a thread, once no call is in hand that may use what it closes."""
        self._stack.push_async_callback(asyncio.to_thread, close)

    def observe(self, readings: Readings) -> None:
        """Metrics that are read when they are exported, from the exporter's thread, as long as the
        process lives.
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
        self._server.let_in()
        self.readiness.has("start")
        await self._listen()
        await self._end()

    async def _listen(self) -> None:
        await self._server.listen(self.settings.address)
        self._stack.push_async_callback(self._server.stop)  # before what was wired so far, after what follows

    async def _end(self) -> None:
        # Returns once the process is told to stop, or has to.
        await self._server.follow_readiness()
        await self._stopping.wait()
        self.log.info("stopping")
        end_after(STOPS_WITHIN_S)
        await self._server.leave()


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


def start(
    run: Callable[[S], Coroutine[Any, Any, None]],
    settings: Callable[[], S],
    loop: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run,
) -> None:
    """`__main__`'s one line. A setting that is wrong ends it with a sentence, not a traceback. `loop` runs
    it: another than asyncio's own where calls come by the thousand.
    """
    loop(run(read_or_exit(settings)))
