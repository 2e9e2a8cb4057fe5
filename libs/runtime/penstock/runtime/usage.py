"""Processor time and memory of the service's process, and room on its disk, read from the kernel."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from penstock.contracts import metrics
from penstock.runtime.metrics import Reading, observed

_PAGE = os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def usage(home: Path) -> Iterator[None]:
    """While inside, processor, memory, threads, files and the disk of `home` are metrics."""
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        for metric, read in (
            (metrics.CPU, _cpu),
            (metrics.MEMORY, lambda: [(float(resident_bytes("self")), {})]),
            (metrics.THREADS, lambda: [(float(len(os.listdir("/proc/self/task"))), {})]),
            (metrics.FILES, lambda: [(float(len(os.listdir("/proc/self/fd"))), {})]),
            (metrics.UPTIME, lambda: [(time.monotonic() - began, {})]),
            (metrics.HOME_FREE, lambda: [(float(shutil.disk_usage(home).free), {})]),
            (metrics.HOME_SIZE, lambda: [(float(shutil.disk_usage(home).total), {})]),
        ):
            stack.enter_context(observed(metric, read))
        yield


def resident_bytes(process: int | str) -> int:
    """Physical memory of a process, by its pid or `self`. Raises OSError when there is none."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE


def _cpu() -> list[Reading]:
    used = os.times()
    return [(used.user, {"cpu.mode": "user"}), (used.system, {"cpu.mode": "system"})]
