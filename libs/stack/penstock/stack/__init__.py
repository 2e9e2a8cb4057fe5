"""Embedded stack: Kafka, Triton, Envoy and the services on one machine.

    stack = up(Path(".penstock"))       # ready when it returns
    for program in status(stack.home): ...
    down(stack.home)

Importing this starts nothing and is quick; the parts are imported when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.stack.inspection import ProgramStatus
    from penstock.stack.stack import Progress, Stack

__all__ = ["down", "logs", "status", "up"]


def up(
    home: Path,
    services: Sequence[str] | None = None,
    progress: Progress | None = None,
    *,
    ports_wanted: Mapping[str, int] | None = None,
    within: float = 120.0,
) -> Stack:
    """Brings a stack up: `penstock.stack.stack.up`."""
    from penstock.stack.stack import up as bring_up

    return bring_up(home, services, progress, ports_wanted=ports_wanted, within=within)


def down(home: Path, progress: Callable[[str], None] | None = None) -> None:
    """Takes a stack down: `penstock.stack.stack.down`."""
    from penstock.stack.stack import down as take_down

    take_down(home, progress)


def status(home: Path) -> list[ProgramStatus]:
    """Asks every program how it is: `penstock.stack.inspection.status`."""
    from penstock.stack.inspection import status as ask

    return ask(home)


def logs(home: Path, program: str, *, follow: bool = False, last: int | None = None) -> Iterator[str]:
    """Reads a program's log: `penstock.stack.logfiles.logs`."""
    from penstock.stack.logfiles import logs as read

    return read(home, program, follow=follow, last=last)
