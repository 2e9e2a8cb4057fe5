"""Cost of a process so far, read from the kernel. Little is imported, no event either: each job's
process has loaded it.
"""

from __future__ import annotations

import os
import re
import resource
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

_TICKS = os.sysconf("SC_CLK_TCK")
_GPU = re.compile(r"/dev/nvidia\d+")


class Spent(TypedDict):
    """Cost of a process: fields of an event's `Cost`."""

    processor_s: float
    gpu_s: float
    peak_memory: int
    bytes_read: int


def spent(process: int | str) -> Spent:
    """Cost of a process, by its pid or `self`, and of those of its children that ended. Memory of
    children counts for `self` alone. Raises OSError when there is none.
    """
    folder = Path(f"/proc/{process}")
    # Fields from the third on: the second, the program's name, may hold anything.
    times = (folder / "stat").read_text().rpartition(")")[2].split()
    began, processor = int(times[19]) / _TICKS, sum(map(int, times[11:15])) / _TICKS
    memory = _number(folder / "status", "VmHWM") * 1024
    if process == "self":
        own, children = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        processor = sum(used.ru_utime + used.ru_stime for used in (own, children))  # finer than ticks
        # After the `exec` of a child it holds that child's parent's, which is here.
        memory = max(memory, children.ru_maxrss * 1024)
    gpus = len(_gpus(folder / "fd"))
    up = float(Path("/proc/uptime").read_text().split()[0]) if gpus else began
    return {
        "processor_s": round(processor, 6),
        "gpu_s": round(gpus * (up - began), 3),
        "peak_memory": memory,
        "bytes_read": _number(folder / "io", "rchar"),
    }


def _number(file: Path, key: str) -> int:
    """Reads `key: 123 kB`; 0 where there is no such line, as of a process that has just ended."""
    found = re.search(rf"^{key}:\s*(\d+)", file.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def _gpus(descriptors: Path) -> set[str]:
    """Names the GPUs that the process has open: each is held for as long as it lives."""
    found = set()
    for descriptor in descriptors.iterdir():
        with suppress(OSError):  # closed meanwhile
            target = os.readlink(descriptor)
            if _GPU.fullmatch(target):
                found.add(target)
    return found
