"""Circuit breaker (Nygard, Release It!, 2007): after some calls in a row that got no answer, none is made
for a while, then one that tells whether there is one again. Pure; times are seconds of one clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Final, Literal, Self

MISSES: Final = 3  # in a row, until it opens
OPEN_S: Final = 30.0


@dataclass(frozen=True)
class Breaker:
    misses: int = 0
    tries_at: float = -inf  # from when on one call may try, once it has opened
    trying: bool = False  # whether that one is under way

    def state(self, now: float) -> Literal["closed", "open", "half_open"]:
        if self.misses < MISSES:
            return "closed"
        return "open" if now < self.tries_at else "half_open"

    def lets(self, now: float) -> bool:
        """Tells whether a call may be made."""
        state = self.state(now)
        return state == "closed" or (state == "half_open" and not self.trying)

    def begun(self, now: float) -> Self:
        """State once a call that it lets is under way. It ends in one of the next three."""
        return replace(self, trying=self.state(now) == "half_open")

    def answered(self) -> Self:
        return type(self)()

    def missed(self, now: float) -> Self:
        """State once a call got no answer, or that of one who is away itself."""
        return replace(self, misses=self.misses + 1, tries_at=now + OPEN_S, trying=False)

    def left(self) -> Self:
        """State once its caller left before there was an answer: that says nothing."""
        return replace(self, trying=False)
