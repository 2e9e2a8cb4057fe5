"""Processor time and memory of the service's process, and room on its disk, read from the kernel."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from penstock.contracts import metrics
from penstock.runtime.metrics import Reading, Readings

_PAGE = os.sysconf("SC_PAGE_SIZE")


def usage(home: Path) -> Readings:
    """Processor, memory, threads and files of this process, and the disk of `home`."""
    began = time.monotonic()
    return {
        metrics.CPU: _cpu,
        metrics.MEMORY: lambda: [(float(resident_bytes("self")), {})],
        metrics.THREADS: lambda: [(float(len(os.listdir("/proc/self/task"))), {})],
        metrics.FILES: lambda: [(float(len(os.listdir("/proc/self/fd"))), {})],
        metrics.UPTIME: lambda: [(time.monotonic() - began, {})],
        metrics.HOME_FREE: lambda: [(float(shutil.disk_usage(home).free), {})],
        metrics.HOME_SIZE: lambda: [(float(shutil.disk_usage(home).total), {})],
    }


def resident_bytes(process: int | str) -> int:
    """Physical memory of a process, by its pid or `self`. Raises OSError when there is none."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE


def _cpu() -> list[Reading]:
    used = os.times()
    return [(used.user, {"cpu.mode": "user"}), (used.system, {"cpu.mode": "system"})]
