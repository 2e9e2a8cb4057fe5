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
from typing import Any, Self

import structlog

log = structlog.get_logger(__name__)

LAST_LINES = 20
LONGEST_LINE = 64 << 20
DRAIN_S = 2.0


class JobProcess:
    """One child. Make it with `start`; read each `message`; `ended` says how it died."""

    def __init__(
        self, popen: subprocess.Popen[bytes], messages: asyncio.StreamReader, errors: asyncio.StreamReader
    ) -> None:
        self.pid = popen.pid
        self._popen = popen
        self._messages = messages
        self._gone = asyncio.Event()
        self._last: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
        self._pidfd = os.pidfd_open(popen.pid)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pidfd, self._exited)
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
            return json.loads(text) if text.endswith(b"\n") else None
        finally:
            line.cancel()
            gone.cancel()

    async def ended(self) -> int:
        """The exit code, negative for a signal. Whatever the child left running in its group is killed."""
        await self._gone.wait()
        self.signal(signal.SIGKILL)
        await asyncio.wait({self._echo}, timeout=DRAIN_S)
        return self._popen.returncode

    def signal(self, number: signal.Signals) -> None:
        """Signals the child and all that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    @property
    def last_lines(self) -> list[str]:
        return list(self._last)

    def close(self) -> None:
        """Kills what still lives and lets go of the descriptors."""
        self.signal(signal.SIGKILL)
        self._echo.cancel()
        if not self._gone.is_set():
            self._popen.wait()
            self._exited()

    def _exited(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._popen.wait()
        self._gone.set()

    async def _echo_errors(self, errors: asyncio.StreamReader) -> None:
        """The child's log lines go where the service's go."""
        rest = b""
        while chunk := await errors.read(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                text = line.decode("utf-8", "replace")
                self._last.append(text)
                sys.stderr.write(text + "\n")
        if rest:
            self._last.append(rest.decode("utf-8", "replace"))
            sys.stderr.write(self._last[-1] + "\n")


async def _reader(fd: int) -> asyncio.StreamReader:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LONGEST_LINE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", 0))
    return reader


def how_it_died(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code} and no result"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
