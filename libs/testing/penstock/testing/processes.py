"""Processes below one that a test started. Others begin and end while they are looked for."""

from __future__ import annotations

from contextlib import suppress

import psutil


def below(pid: int, name: str) -> list[psutil.Process]:
    """Lists its descendants whose command has `name` in it; none where it is gone itself."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):
                if name in " ".join(process.cmdline()):
                    found.append(process)
    return found


def job_of(service: int, module: str) -> psutil.Process | None:
    """Finds the process of a job, forked from one that loaded its module; None while there is none."""
    for process in below(service, module):
        with suppress(psutil.NoSuchProcess):
            if process.ppid() != service:
                return process
    return None
