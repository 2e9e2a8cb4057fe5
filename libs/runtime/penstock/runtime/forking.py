"""The fork server of jobs: a process that loads a job's module once, and is copied for each job. The
service's side is `penstock.runtime.jobs.fork_server`.

An order is a message of names of modules to load (JSON) on the control socket, alone or with four
descriptors, for a copy: a memory file with the request, the pipe for the job's messages, the pipe for what it
prints, and the pipe on which the fork server tells the copy's pid and, when it is gone, its exit
code and cost.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

from penstock.runtime.spent import Spent, spent

LONGEST_ORDER = 1 << 16  # bytes
STOPPED = 128 + signal.SIGTERM
_PR_SET_PDEATHSIG = 1


def forked() -> tuple[dict[str, Any], int]:
    """Waits for orders on standard input; returns in a new copy of this process, once for each, its
    request and the pipe for its messages. In this process it never returns: it ends, and the copies
    with it, when the service closes the socket or dies.

    Call it before this process has threads of Python. What it has loaded is never searched for
    garbage, so that its memory stays shared.
    """
    control = _take_standard_input()
    copies: dict[int, tuple[int, int]] = {}  # by pidfd: a copy's pid, and where its end is told
    events = select.poll()
    events.register(control, select.POLLIN)
    while True:
        gc.freeze()
        for ready, _ in events.poll():
            if ready in copies:
                events.unregister(ready)
                _bury(*copies.pop(ready))
                os.close(ready)
                continue
            order, descriptors, _, _ = socket.recv_fds(control, LONGEST_ORDER, 4, socket.MSG_CMSG_CLOEXEC)
            if not order:
                os._exit(0)
            _load(json.loads(order))
            if not descriptors:
                continue
            request, channel, errors, status = descriptors
            server, pid = os.getpid(), os.fork()
            if pid == 0:
                _become_job(
                    server,
                    errors,
                    [control.detach(), status, *copies, *(told for _, told in copies.values())],
                )
                with os.fdopen(request) as text:
                    return json.load(text), channel
            with suppress(ProcessLookupError):
                os.setpgid(pid, pid)  # here too: the service may signal the group from now on
            _tell(status, {"pid": pid})
            for descriptor in (request, channel, errors):
                os.close(descriptor)
            watched = os.pidfd_open(pid)
            copies[watched] = pid, status
            events.register(watched, select.POLLIN)


def _take_standard_input() -> socket.socket:
    """Returns the socket that lies there, and leaves nothing to read."""
    taken = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return taken


def _load(modules: list[str]) -> None:
    for module in modules:
        with suppress(Exception):  # the job meets it too, and says so
            importlib.import_module(module)


def _become_job(server: int, errors: int, others: list[int]) -> None:
    """Makes this copy a job: its parent's end is its own, it leads a process group, what it prints goes
    to one place, and it holds no descriptor of the server's.
    """
    tie_to(server)
    os.setpgid(0, 0)
    for stream in (1, 2):
        os.dup2(errors, stream)
    for descriptor in (errors, *others):
        os.close(descriptor)


def _bury(copy: int, status: int) -> None:
    """Tells how a copy ended, with the cost that the kernel knows until it has been waited for."""
    cost: Spent | None = None
    with suppress(OSError):  # a kernel without /proc
        cost = spent(copy)
    _, ended = os.waitpid(copy, 0)
    _tell(status, {"code": os.waitstatus_to_exitcode(ended), "cost": cost or {}})
    os.close(status)


def _tell(status: int, message: dict[str, Any]) -> None:
    with suppress(BrokenPipeError):  # the service is about to end
        os.write(status, json.dumps(message).encode() + b"\n")


def tie_to(parent: int) -> None:
    """Has this process killed when its parent dies, and ends it at once if the parent is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(STOPPED)
