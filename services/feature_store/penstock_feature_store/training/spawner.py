"""Heavy work in processes that are there at once: forked from one that has DuckDB imported and does
nothing else.

A training set needs DuckDB and much memory for some seconds. In this process it would hold
up online reads (Python's lock) and keep the memory; a fresh process would spend 4 s on imports. So
the process forks once, before it has any thread: the copy waits, and forks again for each piece of
work, whose module it has loaded. Its pages are shared with the service's, so waiting costs little.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any, Self

from penstock.contracts.errors import PenstockError, Unavailable
from penstock.runtime.child import error_heard, error_said
from penstock.runtime.forking import tie_to
from penstock.runtime.loading import loading

LONGEST_NAME = 1024  # of a module


class Spawner:
    """Owned by the service; what it forked ends with it."""

    def __init__(self, control: socket.socket, pid: int) -> None:
        self._control = control
        self.pid = pid

    @classmethod
    def start(cls, warm: str) -> Self:
        """Imports the module `warm`, then forks. Call it before the process has threads."""
        with loading():
            importlib.import_module(warm)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            ours.close()
            _wait_and_fork(theirs)
        theirs.close()
        return cls(ours, pid)

    async def run(self, work: str, order: dict[str, Any]) -> dict[str, Any]:
        """`module:function` called with `order` in a process of its own; returns what it returns.

        Raises the PenstockError that it raises, and Unavailable when the process died. Cancelling
        does not stop the process.
        """
        request = os.memfd_create("order")
        reading, writing = os.pipe()
        try:
            os.write(request, json.dumps([work, order]).encode())
            module = work.partition(":")[0].encode()
            socket.send_fds(self._control, [module], [request, writing])
        except OSError as error:
            os.close(reading)
            raise Unavailable(
                "the process that makes workers is gone", remedy="The service starts again by itself"
            ) from error
        finally:
            os.close(request)
            os.close(writing)
        answer = await _read_all(reading)
        if not answer:
            raise Unavailable(
                f"{work.rpartition(':')[2]} ended without an answer, perhaps for want of memory",
                remedy="Try again",
            )
        said = json.loads(answer)
        if "error" in said:
            raise error_heard(said["error"])
        return dict(said["result"])

    async def watch(self) -> None:
        """Returns never; raises Unavailable when the waiting process dies."""
        loop, gone = asyncio.get_running_loop(), asyncio.Event()
        descriptor = os.pidfd_open(self.pid)
        loop.add_reader(descriptor, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        raise Unavailable("the process that makes workers is gone")

    def close(self) -> None:
        """The waiting process sees the end of its socket, and ends with all that it forked."""
        self._control.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _wait_and_fork(control: socket.socket) -> None:
    """The waiting process. Signals are for the service: this one ends when the service does."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    waiting = os.getpid()
    while True:
        module, descriptors, _, _ = socket.recv_fds(control, LONGEST_NAME, 2)
        if not module:
            os._exit(0)
        with contextlib.suppress(Exception), loading():  # the copy meets it too, and says so
            importlib.import_module(module.decode())  # once: the copies after it have it
        if os.fork() == 0:
            control.close()
            _work(waiting, *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _work(waiting: int, request: int, answer: int) -> None:
    """Does one piece of work in this process, told by the memory file `request`, and ends."""
    tie_to(waiting)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        gc.unfreeze()
        work, order = json.loads(os.pread(request, os.fstat(request).st_size, 0))
        function: Callable[[dict[str, Any]], dict[str, Any]] = pkgutil.resolve_name(work)
        said: dict[str, Any] = {"result": function(order)}
    except BaseException as error:
        if not isinstance(error, PenstockError):
            traceback.print_exc()
        said = {"error": error_said(error)}
    with os.fdopen(answer, "wb") as pipe:
        pipe.write(json.dumps(said).encode())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


async def _read_all(descriptor: int) -> bytes:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
    )
    try:
        return await reader.read()
    finally:
        transport.close()
