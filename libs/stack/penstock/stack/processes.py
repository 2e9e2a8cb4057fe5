"""Processes and shared memory of a stack, found by what they carry rather than by their parent: a
killed program leaves orphans.

Every process that a stack starts inherits two variables; `/proc` tells who has them. `launch`
imports this, so it needs nothing but the standard library.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

HOME_VARIABLE = "PENSTOCK_STACK_HOME"  # the stack's home, absolute
PROGRAM_VARIABLE = "PENSTOCK_STACK_PROGRAM"  # the program that a process belongs to

SUPERVISOR = "supervisor"

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
_POLL_S = 0.02


@dataclass(frozen=True)
class Process:
    pid: int
    program: str
    started: str  # in clock ticks since boot: with the pid it names one process for ever

    def alive(self) -> bool:
        return _started(self.pid) == self.started


def of_stack(home: Path, program: str | None = None) -> list[Process]:
    """Lists the living processes of the stack at `home`, or of one program; no zombies."""
    wanted = os.fsencode(home)
    return [
        found
        for mark, found in _marked()
        if mark == wanted and program in (None, found.program) and found.pid != os.getpid()
    ]


def end(processes: Iterable[Process], grace: float) -> None:
    """Sends SIGTERM, then after `grace` seconds SIGKILL, and returns when none is left. Raises
    TimeoutError if one outlives even that.
    """
    remaining = [process for process in processes if process.alive()]
    for how, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        for process in remaining:
            if process.alive():
                with suppress(ProcessLookupError):
                    os.kill(process.pid, how)
        deadline = time.monotonic() + patience
        while remaining and time.monotonic() < deadline:
            remaining = [process for process in remaining if process.alive()]
            time.sleep(_POLL_S)
    if remaining:
        raise TimeoutError(f"processes {[process.pid for process in remaining]} do not end")


def sweep_shared_memory(prefix: str) -> None:
    """Removes the regions of a dead program, which are its own by their prefix."""
    for region in _SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def _marked() -> Iterator[tuple[bytes, Process]]:
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = environ.read_bytes()
        except OSError:  # gone, or another user's
            continue
        variables = dict(item.partition(b"=")[::2] for item in environment.split(b"\0"))
        home, program = (variables.get(os.fsencode(name)) for name in (HOME_VARIABLE, PROGRAM_VARIABLE))
        pid = int(environ.parent.name)
        if home is not None and (started := _started(pid)) is not None:
            yield home, Process(pid, os.fsdecode(program or b""), started)


def _started(pid: int) -> str | None:
    """Start of a process in clock ticks; None where there is none, or only a zombie of it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
