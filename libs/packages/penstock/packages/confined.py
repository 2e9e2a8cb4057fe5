"""Confinement of a process that runs a graph made elsewhere: it is somebody's program."""

from __future__ import annotations

import resource
from pathlib import Path

MEMORY = 3 << 30  # bytes beyond what the process has with its libraries loaded


def confine(seconds: float, memory: int = MEMORY) -> None:
    """Gives up what no graph needs, for good: opening files and with it starting programs, writing,
    memory beyond `memory` bytes more than it has, and more than `seconds` of a processor. What is
    open stays open.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = int(used.ru_utime + used.ru_stime + seconds) + 1
    for kind, bound in (
        (resource.RLIMIT_AS, limit),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        resource.setrlimit(kind, (bound, bound + 1 if kind == resource.RLIMIT_CPU else bound))


def wants_too_much(error: BaseException) -> bool:
    """Tells whether ONNX Runtime says with it that memory ended: its errors share no base."""
    said = str(error)
    return isinstance(error, MemoryError) or "bad_alloc" in said or "Failed to allocate memory" in said
