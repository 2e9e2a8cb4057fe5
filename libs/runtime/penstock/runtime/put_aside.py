"""Messages that this process has lately put aside, for `penstock status`: as many as the alert
ManyDeadLetters asks for are said there too, where nobody runs Prometheus.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Final

MANY: Final = 10  # messages within MINUTES, from which it is told
MINUTES: Final = 15
_COUNTED: Final = 1_000

_moments: deque[float] = deque(maxlen=_COUNTED)  # seconds of the monotonic clock


def note() -> None:
    """Counts one. From any thread."""
    _moments.append(time.monotonic())


def said() -> tuple[str, ...]:
    """A sentence where they are many. From any thread."""
    since = time.monotonic() - 60 * MINUTES
    count = sum(moment > since for moment in _moments.copy())
    if count < MANY:
        return ()
    more = " or more" if count == _COUNTED else ""
    return (f"{count:,}{more} messages put aside within {MINUTES} minutes: penstock dead-letters list",)
