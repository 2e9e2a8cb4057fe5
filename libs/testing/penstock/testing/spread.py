"""Spreads tests over pytest-xdist's workers: a file's tests stay together, and all files
that share a running stack go to one worker: those marked `stack` to one, those marked
`stack("failures")` to another, with a stack of its own. What takes long begins first.

Two workers wait for programs a third of the time. A third one, of lower priority, runs meanwhile
what waits for none.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from xdist.scheduler import LoadFileScheduling

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

STACKS = ("stack", "compose")  # marks of what shares a session's stack, and fixtures that bring it up
LONG = (*STACKS, "kafka", "process", "slow")  # marks, the longest first
NEEDED = pytest.StashKey[frozenset[str]]()  # fixtures that a test or one after it may use
GENTLE = "gw2"  # the third worker
NICENESS = 10
WAITS = re.compile(rf"\bmark\.(?:{'|'.join((*LONG, 'docker'))})\b")
MARKED = re.compile(r'^pytestmark = .*?pytest\.mark\.(?:stack|compose)\b(?:\("\w+"\))?', re.MULTILINE)


class Spread(LoadFileScheduling):  # type: ignore[misc]  # pytest-xdist has no types
    """The scheduler of `--dist loadfile`, with the files that share a stack as one. The gentle worker
    takes files that wait for no program, from the end, and stops when there are none left.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        return shared_by(self.config.rootpath / file) or file

    def _assign_work_unit(self, node: WorkerController) -> None:
        if node.gateway.id == GENTLE:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        gentle = node.gateway.id == GENTLE and not node.shutting_down
        if gentle and self.workqueue and waits(self.config.rootpath / next(reversed(self.workqueue))):
            node.shutdown()
        else:
            super()._reschedule(node)


def is_gentle() -> bool:
    return os.environ.get("PYTEST_XDIST_WORKER") == GENTLE


def expect_delays() -> None:
    """Before tests are collected: what this worker's examples take says how busy the others are."""
    if is_gentle():
        from hypothesis import HealthCheck, settings

        settings.register_profile(GENTLE, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        settings.load_profile(GENTLE)


def give_way() -> None:
    """After tests were collected: the other workers begin when all have."""
    if is_gentle():
        os.nice(NICENESS)


@functools.cache
def shared_by(file: Path) -> str | None:
    """The stack that a file's tests share, by its `pytestmark`; workers alone know the tests'."""
    marked = MARKED.search(file.read_text())
    return marked[0].rpartition(".")[2] if marked else None


@functools.cache
def waits(file: Path) -> bool:
    """Whether a test of the file may wait for a program, by its marks; a shared stack is no file."""
    return not file.is_file() or bool(WAITS.search(file.read_text()))


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
