"""Processes by a mark in their environment, which all that they start inherits."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MARK = "PENSTOCK_TRIALS"
GONE_S = 5.0


def marked(folder: Path) -> Iterator[int]:
    """Pids of processes that live and were started for trials that work in `folder`."""
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
