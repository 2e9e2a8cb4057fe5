"""Fitness of this machine for the embedded stack. `make setup` runs this file before anything is
downloaded: it needs the standard library alone.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import sysconfig
from pathlib import Path

GLIBC = (2, 35)
"""Oldest version that Triton's wheel runs with."""
SHARED_MEMORY = "/dev/shm"  # noqa: S108
SHARED_MEMORY_BYTES = 64 << 20
"""Free space that is needed: 1 MiB for each model's stub, more while tensors are large."""
WAY_OUT = (
    "Run the stack in containers instead, which needs Docker alone: make images, then docker compose up -d"
    " --wait. See docs/operations.md"
)


def problems() -> list[str]:
    """Lists what is missing here, each with what to do; empty on a fit machine."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return [
            f"this is {platform.system()} on {platform.machine()}; Triton's and Envoy's wheels are for Linux"
            " on x86-64"
        ]
    found = [
        _glibc(),
        _python(),
        _library("libstdc++.so.6", "Install it (Debian: libstdc++6)"),
        _libpython(),
        _shared_memory(),
    ]
    return [problem for problem in found if problem]


def check() -> None:
    """Raises Conflict with everything that is missing."""
    from penstock.contracts.errors import Conflict

    if found := problems():
        raise Conflict(f"the embedded stack does not run on this machine: {'; '.join(found)}", remedy=WAY_OUT)


def _glibc() -> str | None:
    name, version = platform.libc_ver()
    numbers = tuple(int(part) for part in version.split(".")[:2]) if name == "glibc" else ()
    if numbers >= GLIBC:
        return None
    return (
        f"its C library is {name or 'not glibc'} {version}; needed is glibc {GLIBC[0]}.{GLIBC[1]} (Debian 12,"
        " Ubuntu 22.04)"
    )


def _python() -> str | None:
    return (
        None
        if sys.version_info[:2] == (3, 11)
        else f"this is Python {platform.python_version()}; needed is 3.11"
    )


def _library(name: str, remedy: str) -> str | None:
    try:
        ctypes.CDLL(name)
    except OSError:
        return f"{name} is missing. {remedy}"
    return None


def _libpython() -> str | None:
    """Looks for Python as a library, which Triton's stub embeds and some builds leave out."""
    name = f"libpython3.{sys.version_info.minor}.so.1.0"
    if (Path(str(sysconfig.get_config_var("LIBDIR"))) / name).is_file():
        return None
    return _library(name, "Install it (Debian: libpython3.11), or use a Python built with --enable-shared")


def _shared_memory() -> str | None:
    try:
        there = os.statvfs(SHARED_MEMORY)
    except OSError:
        return f"{SHARED_MEMORY} is missing; Triton passes tensors to its backend there"
    if there.f_bavail * there.f_frsize < SHARED_MEMORY_BYTES:
        return (
            f"{SHARED_MEMORY} has {there.f_bavail * there.f_frsize >> 20} MiB free; needed are"
            f" {SHARED_MEMORY_BYTES >> 20}"
        )
    return None


if __name__ == "__main__":
    if found := problems():
        sys.exit(
            "\n".join(
                [
                    "The embedded stack does not run on this machine:",
                    *(f"  {problem}" for problem in found),
                    WAY_OUT,
                ]
            )
        )
