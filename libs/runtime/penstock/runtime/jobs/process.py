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
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from penstock.contracts.events import Cost
from penstock.runtime.jobs.queue import Claim
from penstock.runtime.spent import spent
from penstock.runtime.telemetry import current_traceparent

LAST_LINES = 20
LONGEST_LINE = 64 << 20
DRAIN_S = 2.0


@dataclass(frozen=True)
class Child:
    """The child process of a job: `module` runs as `__main__` and calls `job_main`, with `environment`
    besides the service's own. Its logs and spans look like the service's where `traces` is the folder
    of those; else it sets up its own.
    """

    module: str
    service: str = "job"
    log_level: str = "INFO"
    traces: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    async def start(self, kind: str, claim: Claim) -> JobProcess:
        """Blocks for the fork, a few milliseconds. Raises OSError."""
        request = {
            "kind": kind,
            "service": self.service,
            "log_level": self.log_level,
            "traces": str(self.traces) if self.traces else None,
            "job_id": claim.job_id,
            "payload": claim.payload,
            "attempt": claim.attempt,
            "traceparent": current_traceparent(),
        }
        return await JobProcess.start(self.module, request, {**os.environ, **self.environment})


class JobProcess:
    """One child. Make it with `start`; read each `message`; `ended` says how it died, `cost` what it
    used as far as it is known.
    """

    def __init__(
        self, popen: subprocess.Popen[bytes], messages: asyncio.StreamReader, errors: asyncio.StreamReader
    ) -> None:
        self.pid = popen.pid
        self.cost = Cost()
        self._popen = popen
        self._messages = messages
        self._gone = asyncio.Event()
        self.last_lines: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
        self._pidfd = os.pidfd_open(popen.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._exited)
        self._echo = asyncio.create_task(self._echo_errors(errors))

    @classmethod
    async def start(cls, module: str, request: Mapping[str, Any], environment: Mapping[str, str]) -> Self:
        """Blocks for the fork, a few milliseconds. The request lies in memory as the child's
        standard input.
        """
        message_read, message_write = os.pipe()
        error_read, error_write = os.pipe()
        stdin = os.memfd_create("job-request")
        try:
            os.write(stdin, json.dumps({**request, "channel": message_write}).encode())
            os.lseek(stdin, 0, os.SEEK_SET)
            popen = subprocess.Popen(  # noqa: ASYNC220  asyncio's own waits for pipes that a grandchild may hold
                [sys.executable, "-m", "penstock.runtime.child", module, str(os.getpid())],
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=error_write,
                pass_fds=(message_write,),
                process_group=0,
                env={**environment, "PYTHONUNBUFFERED": "1"},
            )
        except BaseException:
            os.close(message_read)
            os.close(error_read)
            raise
        finally:
            for fd in (stdin, message_write, error_write):
                os.close(fd)
        return cls(popen, await _reader(message_read), await _reader(error_read))

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
            self._know(spent(self.pid))
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
        return self._popen.returncode

    def signal(self, number: signal.Signals) -> None:
        """Signals the child and all that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def close(self) -> None:
        """Kills what still lives and lets go of the descriptors."""
        self.signal(signal.SIGKILL)
        self._echo.cancel()
        if not self._gone.is_set():
            self._popen.wait()
            self._exited()

    def _exited(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.look()  # the kernel still knows its time, also of one that was killed
        self._popen.wait()
        self._gone.set()

    def _said(self, message: dict[str, Any]) -> dict[str, Any]:
        """Takes the cost out of a child's last message."""
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
