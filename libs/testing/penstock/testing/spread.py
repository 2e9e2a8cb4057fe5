"""Spreads tests over pytest-xdist's workers: a file's tests stay together, and all files
that share a running stack go to one worker: those marked `stack` to one, those marked
`stack("failures")` to another, with a stack of its own. What takes long begins first.

Two workers wait for programs a third of the time. Meanwhile a third one runs what needs a broker
and mostly waits: one broker serves all of it. A fourth, of lower priority, runs what no clock
bounds: tests without such a mark, and those of files marked `process("unhurried")`.
"""

from __future__ import annotations

import functools
import os
import re
from itertools import chain, filterfalse
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from xdist.scheduler import LoadFileScheduling

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

STACKS = ("stack", "compose")  # marks of what shares a session's stack, and fixtures that bring it up
LONG = (*STACKS, "kafka", "process", "slow")  # marks, what begins first
HURRIED = frozenset(LONG) - {"slow"}  # marks of what may have bounds in seconds
NEEDED = pytest.StashKey[frozenset[str]]()  # fixtures that a test or one after it may use
PATIENT, GENTLE = "gw2", "gw3"  # the third worker and the fourth
NICENESS = 10
MARK = re.compile(r"\bmark\.(\w+)")
UNHURRIED = re.compile(r'^pytestmark = .*?pytest\.mark\.process\("unhurried"\)', re.MULTILINE)
WHOLE = re.compile(r"^pytestmark = \[?pytest\.mark\.(\w+)", re.MULTILINE)
ONLY_NOT = re.compile(r"not \w+(?: and not \w+)*")
MARKED = re.compile(r'^pytestmark = .*?pytest\.mark\.(?:stack|compose)\b(?:\("\w+"\))?', re.MULTILINE)


class Spread(LoadFileScheduling):  # type: ignore[misc]  # pytest-xdist has no types
    """The scheduler of `--dist loadfile`, with the files that share a stack as one. The fourth worker
    takes those that no clock bounds, from the end, and stops when there are none left. The third
    takes files marked `kafka`, then what is left, in its order: what `while_needed` has ended is not
    begun again. The others leave those to it for as long as there is something else.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        return shared_by(self.config.rootpath / file) or file

    def _assign_work_unit(self, node: WorkerController) -> None:
        if scope := self._next_for(node):
            self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        if self.workqueue and not node.shutting_down and self._next_for(node) is None:
            node.shutdown()
        else:
            super()._reschedule(node)

    def _next_for(self, node: WorkerController) -> str | None:
        """The file that this worker takes next, or the shared stack."""
        left: list[str] = list(self.workqueue)
        others = chain(filterfalse(self._waits_for_kafka, left), left)
        kafka, unhurried = filter(self._waits_for_kafka, left), filter(self._is_unhurried, reversed(left))
        wanted = {PATIENT: chain(kafka, left), GENTLE: unhurried}.get(node.gateway.id, others)
        return next(iter(wanted), None)

    def _waits_for_kafka(self, scope: str) -> bool:
        return self._marks(scope) & {*STACKS, "kafka"} == {"kafka"}

    def _is_unhurried(self, scope: str) -> bool:
        return not self._marks(scope) & HURRIED or is_unhurried(self.config.rootpath / scope)

    def _marks(self, scope: str) -> frozenset[str]:
        file = self.config.rootpath / scope
        return marks(file) if file.is_file() else frozenset(STACKS)


def is_gentle() -> bool:
    return os.environ.get("PYTEST_XDIST_WORKER") == GENTLE


def expect_delays() -> None:
    """Before tests are collected: what a worker's examples take says how busy the others are."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        from hypothesis import HealthCheck, settings

        settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
        settings.load_profile("busy")


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
def is_unhurried(file: Path) -> bool:
    """True for a file whose tests start processes and have no bounds in seconds."""
    return file.is_file() and UNHURRIED.search(file.read_text()) is not None


@functools.cache
def marks(file: Path) -> frozenset[str]:
    """Names of all marks that a file's tests have."""
    return frozenset(MARK.findall(file.read_text()))


def is_left_out(file: Path, expression: str) -> bool:
    """True for a file of tests that `expression`, such as `not kafka and not slow`, leaves out one and
    all, by its `pytestmark`.
    """
    if file.suffix != ".py" or not ONLY_NOT.fullmatch(expression):
        return False
    marked = WHOLE.search(file.read_text())
    return marked is not None and marked[1] in expression.split()


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
