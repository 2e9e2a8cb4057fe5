"""Leftovers of a process that was killed: processes, by a mark in their environment, which all that
they start inherits, and folders, by its pid in their names.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MARK = "PENSTOCK_STARTED_FOR"
GONE_S = 5.0


def marked(folder: Path) -> Iterator[int]:
    """Pids of processes that live and were started for what works in `folder`."""
    mark = f"{MARK}={folder}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended, or is another user's
            if mark in (process / "environ").read_bytes().split(b"\0"):
                yield int(process.name)


def sweep(folder: Path) -> None:
    """Kills them, as after a caller that was killed. Returns when none is left, or GONE_S are over."""
    until = time.monotonic() + GONE_S
    while (found := [*marked(folder)]) and time.monotonic() < until:
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def own_folder(prefix: str) -> Path:
    """A new folder among temporary files for this process; those of processes that were killed go, as
    they hold people's data.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*-*"):
        pid = left.name.removeprefix(prefix).partition("-")[0]
        if pid.isdigit() and not lives(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-"))


def lives(pid: int) -> bool:
    """False for a zombie, too."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
