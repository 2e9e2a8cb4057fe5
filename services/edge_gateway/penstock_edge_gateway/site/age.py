"""Age of what is kept, by a clock that no one can set: seconds while the machine was on.

A site's wall clock may be days off and jump when it is corrected. This clock counts sleep and runs on
over restarts of the process; time without power it does not know, so nothing grows too old in it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path

Clock = Callable[[], tuple[str, float]]
"""Name of this boot of the machine, and the seconds since."""


def since_boot() -> tuple[str, float]:
    """Reads the machine's clock (Linux)."""
    return _boot(), time.clock_gettime(time.CLOCK_BOOTTIME)


@functools.cache
def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class AgeClock:
    """Seconds that only grow, over boots too, from what was noted before."""

    def __init__(self, clock: Clock, *, boot: str, ahead: float, latest: float) -> None:
        """`ahead`: what was to be added to the clock in the boot of that name; `latest`: the last
        time that anything noted, from which a new boot goes on.
        """
        self._clock = clock
        self.boot, since = clock()
        self.ahead = ahead if boot == self.boot else latest - since

    def __call__(self) -> float:
        return self._clock()[1] + self.ahead
