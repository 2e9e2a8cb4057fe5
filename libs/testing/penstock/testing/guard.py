"""Ends what a test brought up when the test's process is gone, however it went."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def guarded(
    *command: str, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Runs `command` when the block ends or this process does, and waits for its end.

    A shell waits for the end of its standard input, a pipe that this process holds and never writes
    to.
    """
    guard = subprocess.Popen(
        ["/bin/sh", "-c", 'cat >/dev/null; "$@" >/dev/null 2>&1', "guard", *command],
        stdin=subprocess.PIPE,
        start_new_session=True,
        cwd=folder,
        env=environment,
    )
    try:
        yield
    finally:
        guard.communicate()
