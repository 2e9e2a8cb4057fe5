"""Waiting without sleeping blindly: poll to a deadline, and say what did not happen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

PATIENCE_S = 60.0
"""Many times what a test waits on an idle machine. Another figure is a promise, or takes longer by
itself."""
SHORTEST_S, LONGEST_S = 0.01, 0.2
MOST_S = 1.0  # a look that takes long is followed by a pause as long, up to this
LOOKS = 20  # one after each twentieth of the time that was waited: often at first, then cheap

T = TypeVar("T")
Errors = type[Exception] | tuple[type[Exception], ...]


def until(
    check: Callable[[], T],
    *,
    within: float = PATIENCE_S,
    what: str,
    accept: Callable[[T], object] = bool,
    despite: Errors = (),
) -> T:
    """The first answer of `check` that `accept` finds true; `check` may raise `despite` until then.
    Raises TimeoutError naming `what` and the last answer after `within` seconds.
    """
    deadline = time.monotonic() + within
    while True:
        began = time.monotonic()
        if found := _look(check, accept, despite, what, within, deadline):
            return found[0]
        time.sleep(_pause(within, deadline, began))


async def until_async(
    check: Callable[[], Any],
    *,
    within: float = PATIENCE_S,
    what: str = "what the test waits for",
    despite: Errors = (),
) -> Any:
    """`until` for tests on an event loop, which goes on meanwhile."""
    deadline = time.monotonic() + within
    while True:
        began = time.monotonic()
        if found := _look(check, bool, despite, what, within, deadline):
            return found[0]
        await asyncio.sleep(_pause(within, deadline, began))


def _look(
    check: Callable[[], T],
    accept: Callable[[T], object],
    despite: Errors,
    what: str,
    within: float,
    deadline: float,
) -> tuple[T] | None:
    """The accepted answer, or None while it may still come."""
    last: T | Exception
    try:
        if accept(last := check()):
            return (last,)
    except despite as error:
        last = error
    if time.monotonic() > deadline:
        raise TimeoutError(f"not within {within:.0f} s: {what} (last: {last!r})")
    return None


def _pause(within: float, deadline: float, began: float) -> float:
    """Seconds until the next look, after one that `began` then."""
    now = time.monotonic()
    waited, took = within - (deadline - now), now - began
    return max(min(max(waited / LOOKS, SHORTEST_S), LONGEST_S), min(took, MOST_S))
