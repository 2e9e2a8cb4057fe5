"""Fitness of this machine for the embedded stack. `make setup` runs this file before anything is
downloaded: it needs the standard library alone.
"""

from __future__ import annotations

import ctypes
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

GLIBC = (2, 35)  # the oldest that Triton's wheel runs with
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
SHARED_MEMORY_MIB = 64  # 1 MiB for each model's stub, more while tensors are large
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
    return [*_versions(), *_libraries(), *_shared_memory()]


def check() -> None:
    """Raises Conflict with everything that is missing."""
    from penstock.contracts.errors import Conflict

    if found := problems():
        raise Conflict(f"the embedded stack does not run on this machine: {'; '.join(found)}", remedy=WAY_OUT)


def _versions() -> Iterator[str]:
    name, version = platform.libc_ver()
    if name != "glibc" or tuple(int(part) for part in version.split(".")[:2]) < GLIBC:
        yield (
            f"its C library is {name or 'not glibc'} {version}; needed is glibc {GLIBC[0]}.{GLIBC[1]} (Debian"
            " 12, Ubuntu 22.04)"
        )
    if sys.version_info[:2] != (3, 11):
        yield f"this is Python {platform.python_version()}; needed is 3.11"


def _libraries() -> Iterator[str]:
    needed = {
        "libstdc++.so.6": "Install it (Debian: libstdc++6)",
        "libgomp.so.1": "Install it (Debian: libgomp1)",  # LightGBM's
    }
    # Triton's stub embeds Python as a library, which some builds leave out.
    libpython = f"libpython3.{sys.version_info.minor}.so.1.0"
    if not (Path(str(sysconfig.get_config_var("LIBDIR"))) / libpython).is_file():
        needed[libpython] = "Install it (Debian: libpython3.11), or use a Python built with --enable-shared"
    for name, remedy in needed.items():
        try:
            ctypes.CDLL(name)
        except OSError:
            yield f"{name} is missing. {remedy}"


def _shared_memory() -> Iterator[str]:
    if not SHARED_MEMORY.is_dir():
        yield f"{SHARED_MEMORY} is missing; Triton passes tensors to its backend there"
    elif (free := shutil.disk_usage(SHARED_MEMORY).free >> 20) < SHARED_MEMORY_MIB:
        yield f"{SHARED_MEMORY} has {free} MiB free; needed are {SHARED_MEMORY_MIB}"


if __name__ == "__main__":
    if found := problems():
        lines = ["The embedded stack does not run on this machine:", *(f"  {one}" for one in found), WAY_OUT]
        sys.exit("\n".join(lines))
