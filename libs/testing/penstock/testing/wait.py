"""Waiting without sleeping blindly: poll to a deadline, and say what did not happen."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

POLL_S = 0.05

T = TypeVar("T")


def until(check: Callable[[], T], *, within: float, what: str | Callable[[], str]) -> T:
    """The first true answer of `check`. Raises TimeoutError naming `what`, asked then, and the last
    answer after `within` seconds.
    """
    deadline = time.monotonic() + within
    while True:
        if answer := check():
            return answer
        if time.monotonic() > deadline:
            missing = what if isinstance(what, str) else what()
            raise TimeoutError(f"not within {within:.0f} s: {missing} (last: {answer!r})")
        time.sleep(POLL_S)
