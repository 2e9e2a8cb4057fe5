"""Further tries: until when, and after which delay."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

from penstock.contracts.errors import Unavailable

POLL_S: Final = 0.05

T = TypeVar("T")


class Backoff:
    """Doubles from `first` to `longest` seconds; each delay is drawn from its upper half, so that
    many do not come back at once.
    """

    def __init__(self, *, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._tries = 0

    def next(self) -> float:
        whole = min(self._first * 2.0 ** min(self._tries, 30), self._longest)
        self._tries += 1
        return whole * random.uniform(0.5, 1.0)  # noqa: S311  not a secret

    def reset(self) -> None:
        self._tries = 0


def until_available(call: Callable[[], T], within_s: float) -> T:
    """Calls again and again until it raises no Unavailable. Blocks; raises the last one where that takes
    longer than `within_s` seconds.
    """
    deadline = time.monotonic() + within_s
    while True:
        try:
            return call()
        except Unavailable:
            if time.monotonic() > deadline:
                raise
        time.sleep(POLL_S)  # it tells by an answer alone that it is there
