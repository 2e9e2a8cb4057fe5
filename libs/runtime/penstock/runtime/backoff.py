"""Delay before the next try."""

from __future__ import annotations

import random


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
