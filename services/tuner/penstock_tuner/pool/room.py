"""Room for trials on this machine: a core for each, and its share of the memory."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

GROUPS, SELF = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
TRIAL = 500_000_000  # bytes of one on some ten thousand rows, where the file bounds them not
SERVICE = 500_000_000  # of the service, a study's driver and what its trials are copied from


def trials_at_once(memory: int | None, studies: int) -> int:
    """Number of trials that a study may have at once: one for each core, and in a container no more than
    have room beside those of the other `studies`. `memory`: bytes that a trial may take.
    """
    cores, limit = len(os.sched_getaffinity(0)), memory_limit()
    if limit is None:
        return cores
    return max(1, min(cores, (limit // studies - SERVICE) // (memory or TRIAL)))


def memory_limit(groups: Path = GROUPS, of: Path = SELF) -> int | None:
    """Bytes that this process and those beside it may hold by their control groups (cgroup v2); None
    without a bound.
    """
    found: list[int] = []
    with suppress(OSError):
        own = of.read_text().strip().splitlines()[-1].partition("::")[2].lstrip("/")
        for group in (groups / own, *(groups / own).parents):
            if not group.is_relative_to(groups):
                break
            with suppress(OSError, ValueError):  # "max"
                found.append(int((group / "memory.max").read_text()))
    return min(found, default=None)
