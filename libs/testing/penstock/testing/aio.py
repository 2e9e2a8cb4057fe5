"""`penstock.testing.wait` for tests on an event loop, which goes on meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

POLL_S = 0.01


async def until(
    check: Callable[[], Any],
    *,
    within: float = 60.0,
    what: str = "what the test waits for",
    despite: type[Exception] | tuple[type[Exception], ...] = (),
) -> Any:
    """The first true answer of `check`, which may raise `despite` until then. Raises TimeoutError
    naming `what` and the last answer after `within` seconds.
    """
    deadline = time.monotonic() + within
    while True:
        answer: Any
        try:
            answer = check()
        except despite as error:
            answer = error
        else:
            if answer:
                return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within:.0f} s: {what} (last: {answer!r})")
        await asyncio.sleep(POLL_S)
