"""Calls into librdkafka that may never come back."""

from __future__ import annotations

import threading
from collections.abc import Callable

from penstock.contracts.errors import Unavailable


def bounded(call: Callable[[], None], seconds: float) -> None:
    """For a call that may never return, whatever time-out it is given (librdkafka issue 5456). It
    is left behind then, with its producer, and Unavailable is raised; should it ever go on, the
    next session's producer has fenced it.
    """
    raised: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)
        done.set()

    threading.Thread(target=run, daemon=True).start()
    if not done.wait(seconds):
        raise Unavailable(f"Kafka has not answered within {seconds:.0f} s")
    if raised:
        raise raised[0]
