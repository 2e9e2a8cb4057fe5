"""The service's side of one job process: started in a group of its own, heard line by line, and
gone with all it started.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import structlog

from penstock.contracts.events import Cost
from penstock.runtime.jobs.fork_server import ForkServer
from penstock.runtime.jobs.queue import Claim
from penstock.runtime.spent import spent
from penstock.runtime.telemetry import current_traceparent

log = structlog.get_logger(__name__)

LAST_LINES = 20  # of its output, that are kept to say how it died
LONGEST_LINE = 64 << 20  # bytes of one message
DRAIN_S = 2.0


class Child:
    """The child processes of one kind of job, or of several that need the same loaded: `module` runs as
    `__main__` and calls `job_main`, with `environment` besides the service's own. Their logs and spans
    look like the service's where `traces` is the folder of those; else they set up their own.
    """

    def __init__(
        self,
        module: str,
        service: str = "job",
        log_level: str = "INFO",
        traces: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._about = {
            "service": service,
            "log_level": log_level,
            "traces": str(traces) if traces else None,
        }
        self._server = ForkServer(module, environment or {})
        self._kinds: set[str] = set()  # whose jobs it started

    async def start(self, kind: str, claim: Claim) -> JobProcess:
        """Blocks for the start of a process, a few milliseconds. Raises OSError."""
        request = {
            **self._about,
            "kind": kind,
            "job_id": claim.job_id,
            "payload": claim.payload,
            "attempt": claim.attempt,
            "traceparent": current_traceparent(),
        }
        self._kinds.add(kind)
        return await JobProcess.start(self._server, request)

    def close(self, kind: str) -> None:
        """Ends what still runs, and what was kept for the next job, once the last kind is closed."""
        self._kinds.discard(kind)
        if not self._kinds:
            self._server.close()


class JobProcess:
    """A child. Make it with `start`; read each `message`; `ended` says how it died, `cost` what it
    used as far as it is known. `pid` is None until it has been forked.
    """

    def __init__(
        self,
        server: ForkServer,
        messages: asyncio.StreamReader,
        errors: asyncio.StreamReader,
        status: asyncio.StreamReader,
    ) -> None:
        self.pid: int | None = None
        self.cost = Cost()
        self.last_lines: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
        self._server = server
        self._messages = messages
        self._loaded: list[str] = []
        self._early: signal.Signals | None = None  # a signal from before it was forked
        self._code: int | None = None
        self._gone = asyncio.Event()
        self._echo = asyncio.create_task(self._echo_errors(errors))
        self._life = asyncio.create_task(self._follow(status))

    @classmethod
    async def start(cls, server: ForkServer, request: Mapping[str, Any]) -> Self:
        """Blocks for the start of a process, a few milliseconds."""
        pipes = [os.pipe() for _ in range(3)]
        try:
            server.fork(request, *(write for _, write in pipes))
        except BaseException:
            for read, _ in pipes:
                os.close(read)
            raise
        finally:
            for _, write in pipes:
                os.close(write)
        return cls(server, *[await _reader(read) for read, _ in pipes])

    async def message(self) -> dict[str, Any] | None:
        """Returns the child's next message; None when it is gone and nothing that it said is left. Raises
        ValueError for what is no message.
        """
        line = asyncio.create_task(self._messages.readline())
        gone = asyncio.create_task(self._gone.wait())
        try:
            await asyncio.wait({line, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not line.done():  # what the child left behind may hold the pipe open
                self.signal(signal.SIGKILL)
                await asyncio.wait({line}, timeout=DRAIN_S)
            text = line.result() if line.done() else b""
            return self._said(json.loads(text)) if text.endswith(b"\n") else None
        finally:
            line.cancel()
            gone.cancel()

    def look(self) -> Cost:
        """Reads what it has used so far, and returns the cost."""
        with contextlib.suppress(OSError):  # it is gone, or the kernel has no /proc
            if self.pid is not None:
                self._know(Cost.model_validate(spent(self.pid)))
        return self.cost

    async def ended(self, within: float | None) -> int:
        """The exit code, negative for a signal. Whatever the child left running in its group is killed,
        and so is the child itself after `within` seconds.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._gone.wait(), within)
        self.signal(signal.SIGKILL)
        await self._gone.wait()
        await asyncio.wait({self._echo}, timeout=DRAIN_S)
        self._echo.cancel()
        return self._code or 0

    def signal(self, number: signal.Signals) -> None:
        """Signals the child and all that it started, as soon as it has been forked."""
        self._early = number
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    async def _follow(self, status: asyncio.StreamReader) -> None:
        """Hears from the fork server which process the child is, and how it ended."""
        async for line in status:
            told = json.loads(line)
            if "pid" in told:
                self.pid = told["pid"]
                log.info("job_started", pid=self.pid)
                if self._early is not None:
                    self.signal(self._early)
            else:
                self._code = told["code"]
                self._know(Cost.model_validate(told["cost"]))
        if self._code is None:  # the server died, and its children with it
            self._code = self._server.exit_code()
        self._gone.set()
        self._server.job_ended(self._loaded)

    def _said(self, message: dict[str, Any]) -> dict[str, Any]:
        """Takes out of a child's last message what is not for the service."""
        self._loaded += message.pop("loaded", ())
        if "cost" in message:
            self._know(Cost.model_validate(message.pop("cost")))
        return message

    def _know(self, cost: Cost) -> None:
        """Takes the larger figures: nothing of a cost falls, and a process that has ended has no memory."""
        known = self.cost
        self.cost = Cost(**{name: max(value, getattr(known, name)) for name, value in cost})

    async def _echo_errors(self, errors: asyncio.StreamReader) -> None:
        async for line in errors:
            self.last_lines.append(line.rstrip(b"\n").decode("utf-8", "replace"))
            sys.stderr.write(f"{self.last_lines[-1]}\n")


async def _reader(fd: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=LONGEST_LINE)
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(fd, "rb", 0))
    return reader
