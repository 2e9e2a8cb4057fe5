"""Things that a service waits for, and facts that it tells; health checks and status read them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Waiting:
    thing: str
    why: str
    since: datetime


class Readiness:
    """Ready when nothing is waited for. Safe from any thread."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: dict[str, Waiting] = {}
        self._facts: dict[str, str] = {}
        self._changed: list[Callable[[bool], object]] = []

    @property
    def ready(self) -> bool:
        return not self._waiting

    @property
    def waiting(self) -> tuple[Waiting, ...]:
        with self._lock:
            return tuple(self._waiting.values())

    @property
    def facts(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._facts.values())

    def waits_for(self, thing: str, why: str) -> None:
        with self._lock:
            known = self._waiting.get(thing)
            self._waiting[thing] = Waiting(thing, why, known.since if known else self._clock())
        if not known:
            log.info("waiting", waits_for=thing, why=why)
            self._tell(ready=False)

    def has(self, thing: str) -> None:
        with self._lock:
            known = self._waiting.pop(thing, None)
            ready = not self._waiting
        if known:
            log.info(
                "arrived", arrived=thing, after_s=round((self._clock() - known.since).total_seconds(), 1)
            )
            self._tell(ready=ready)

    def fact(self, key: str, text: str) -> None:
        """An empty text takes the fact back."""
        with self._lock:
            self._facts[key] = text
            if not text:
                del self._facts[key]

    def on_change(self, listener: Callable[[bool], object]) -> None:
        self._changed.append(listener)

    def _tell(self, *, ready: bool) -> None:
        for listener in self._changed:
            listener(ready)
