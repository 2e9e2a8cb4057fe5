"""Spreads tests over pytest-xdist's workers: a file's tests stay together, and all files
that share a running stack go to one worker: those marked `stack` to one, those marked
`stack("failures")` to another, with a stack of its own. What takes long begins first.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling

STACKS = ("stack", "compose")  # marks of what shares a session's stack, and fixtures that bring it up
LONG = (*STACKS, "kafka", "process", "slow")  # marks, the longest first
NEEDED = pytest.StashKey[frozenset[str]]()  # fixtures that a test or one after it may use
MARKED = re.compile(r'^pytestmark = .*?pytest\.mark\.(?:stack|compose)\b(?:\("\w+"\))?', re.MULTILINE)


class Spread(LoadFileScheduling):  # type: ignore[misc]  # pytest-xdist has no types
    """The scheduler of `--dist loadfile`, with the files that share a stack as one."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        return shared_by(self.config.rootpath / file) or file


@functools.cache
def shared_by(file: Path) -> str | None:
    """The stack that a file's tests share, by its `pytestmark`; workers alone know the tests'."""
    marked = MARKED.search(file.read_text())
    return marked[0].rpartition(".")[2] if marked else None


def arrange(items: list[pytest.Item]) -> None:
    """Puts files that take long first. Raises UsageError for a test that brings up a shared stack
    from a file that is not marked so: two workers would bring up one each.
    """
    ranks: dict[Path, int] = {}
    for item in items:
        for fixture in STACKS:
            if fixture in getattr(item, "fixturenames", ()) and not shared_by(item.path):
                raise pytest.UsageError(f"{item.nodeid}: mark the file, `pytestmark = pytest.mark.{fixture}`")
        ranks[item.path] = min(_rank(item), ranks.get(item.path, len(LONG)))
    items.sort(key=lambda item: ranks[item.path])


def _rank(item: pytest.Item) -> int:
    return next((place for place, mark in enumerate(LONG) if item.get_closest_marker(mark)), len(LONG))


def tell_needs(items: list[pytest.Item]) -> None:
    """Tells each test which shared programs it or a later one may use. A worker keeps this order."""
    needed: frozenset[str] = frozenset()
    for item in reversed(items):
        needed |= {name for name in ("kafka", *STACKS) if name in getattr(item, "fixturenames", ())}
        needed |= set(STACKS) if shared_by(item.path) else set()
        item.stash[NEEDED] = needed
