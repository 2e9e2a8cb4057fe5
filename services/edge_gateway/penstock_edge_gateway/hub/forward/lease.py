"""Lease of the hub that forwards. It keeps others waiting; who lost it without knowing is fenced by
Kafka, as the transactions bear one id, and asks for it before an answer that needs no transaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from penstock.contracts.errors import Unavailable
from penstock.runtime.leases import drop_lease, holder_of, take_lease
from penstock.runtime.store import Store

log = structlog.get_logger(__name__)

NAME: Final = "forward"
LENGTH: Final = timedelta(seconds=15)
RENEW_EVERY_S: Final = 5.0
LOOK_EVERY_S: Final = 0.5
_AWAY = (SQLAlchemyError, Unavailable)  # the database


class Lease:
    """Used from one thread, but for `why`."""

    def __init__(self, store: Store, replica: str, clock: Callable[[], datetime]) -> None:
        self.why = "it has just started"  # that this hub has no lease, for people
        self._store = store
        self._replica = replica
        self._clock = clock
        self._mine = False
        self._ask_at = 0.0

    def take(self) -> bool:
        """Takes or keeps it; False while it is another's. Asks the database now and then, and keeps what
        it said last while that is away.
        """
        if time.monotonic() >= self._ask_at:
            try:
                with self._store.transaction() as effect:
                    self._mine = take_lease(effect, NAME, self._replica, self._clock(), LENGTH)
                    self.why = f"replica {holder_of(effect, NAME)} does"
            except _AWAY as error:
                log.warning("lease_not_renewed", why=str(error))
            self._ask_at = time.monotonic() + (RENEW_EVERY_S if self._mine else LOOK_EVERY_S)
        return self._mine

    def drop(self) -> None:
        """Lets another take it at once."""
        if self._mine:
            try:
                with self._store.transaction() as effect:
                    drop_lease(effect, NAME, self._replica)
            except _AWAY as error:
                log.warning("lease_not_dropped", why=str(error))
            self._mine = False
