"""The service's side of a fork server: started with the first job, ended when no job has run for a
while, so that an idle service holds none of a job's memory.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

IDLE_S = 60.0


class ForkServer:
    """Used from the event loop's thread."""

    def __init__(self, module: str, environment: Mapping[str, str]) -> None:
        """`module` runs as `__main__` and calls `job_main`, with `environment` besides this process's
        own.
        """
        self._module = module
        self._environment = environment
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._jobs = 0
        self._used: dict[str, None] = {}  # modules that jobs loaded, in their order

    def fork(
        self,
        request: Mapping[str, Any],
        channel: int,
        errors: int,
        status: int,
        *,
        load: Iterable[str] = (),
    ) -> None:
        """Orders a process for a job; `status` tells its pid and its end. `load`: modules that it and
        the next find loaded. Blocks for the start of a process, a few milliseconds. Raises OSError.
        """
        self._used.update(dict.fromkeys(load))
        if self._ending is not None:
            self._ending.cancel()
        order = os.memfd_create("job-request")
        try:
            os.write(order, json.dumps(request).encode())
            os.lseek(order, 0, os.SEEK_SET)
            descriptors = [order, channel, errors, status]
            if not self._send(list(self._used), descriptors):
                self._start()
                self._send(list(load), descriptors)  # the job loads the rest while it waits for others
        finally:
            os.close(order)
        self._jobs += 1

    def warm(self, load: Iterable[str]) -> None:
        """Starts the server, where it does not run, and has it load these modules; does not wait. Blocks
        for the start of a process, a few milliseconds.
        """
        self._used.update(dict.fromkeys(load))
        if not self._send(list(load), []):
            self._start()
            self._send(list(load), [])

    def job_ended(self, loaded: Iterable[str]) -> None:
        """Says that a job is gone, and which modules the next find loaded."""
        self._used.update(dict.fromkeys(loaded))
        self._jobs -= 1
        if not self._jobs:
            self._ending = asyncio.get_running_loop().call_later(IDLE_S, self.close)

    def exit_code(self) -> int:
        """Exit code of a server that closed a job's status without a word about its end."""
        return self._server.wait() if self._server is not None else 0

    def close(self) -> None:
        """Ends the server and the jobs that still run."""
        if self._ending is not None:
            self._ending.cancel()
        if self._control is not None:
            self._control.close()
        if self._server is not None:
            self._server.kill()
            self._server.wait()
        self._control = self._server = None

    def _send(self, modules: list[str], descriptors: list[int]) -> bool:
        if self._control is None:
            return False
        with suppress(OSError):
            socket.send_fds(self._control, [json.dumps(modules).encode()], descriptors)
            return True
        return False  # it has died

    def _start(self) -> None:
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "penstock.runtime.child", self._module, str(os.getpid())],
                stdin=theirs.fileno(),
                process_group=0,
                env={**os.environ, **self._environment, "PYTHONUNBUFFERED": "1"},
            )
        self._control = ours
