"""Log files of the programs, which supervisord rotates."""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from penstock.contracts.errors import NotFound

_POLL_S = 0.2


def logs(home: Path, program: str, *, follow: bool = False, last: int | None = None) -> Iterator[str]:
    """Reads lines without their ends: the last `last`, or the whole present file. With `follow`,
    goes on as lines come, over rotations too.

    Raises NotFound for a program that never ran here.
    """
    path = home.resolve() / "logs" / f"{program}.log"
    if not path.is_file():
        known = sorted(file.stem for file in path.parent.glob("*.log"))
        remedy = f"There are: {', '.join(known)}" if known else "Start the stack with `penstock up`"
        if near := difflib.get_close_matches(program, known, n=1):
            remedy = f"Did you mean {near[0]}?"
        raise NotFound(f"no log of {program}", where=str(path), remedy=remedy)
    return _lines(path, follow=follow, last=last)


def _lines(path: Path, *, follow: bool, last: int | None) -> Iterator[str]:
    file = path.open(encoding="utf-8", errors="replace")
    try:
        lines = file.read().splitlines()
        yield from lines if last is None else lines[max(0, len(lines) - last) :]
        pending = ""
        while follow:
            if chunk := file.readline():
                pending += chunk
                if pending.endswith("\n"):
                    yield pending[:-1]
                    pending = ""
            elif _rotated(file.fileno(), path):
                file.close()
                file = path.open(encoding="utf-8", errors="replace")
            else:
                time.sleep(_POLL_S)
    finally:
        file.close()


def _rotated(descriptor: int, path: Path) -> bool:
    try:
        return not os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
