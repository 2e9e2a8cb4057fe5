"""Rotation and removal of the door's log: personal data lie there no longer than they must."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from penstock_inference.door.door import Door
from penstock_inference.record.spool import Position, Tail, ensure_private, rotate

log = structlog.get_logger(__name__)

EVERY_S: Final = 1.0
"""Seconds between two looks at the log."""


@dataclass
class Housekeeping:
    """Rotates and removes log files. The recorder calls it between batches, in its thread; it works
    once a second.
    """

    door: Door
    rotate_bytes: int
    rotate_after: timedelta
    keep: timedelta
    _next: float = 0.0
    _written_since: float | None = None

    def __call__(self, tail: Tail, committed: Position | None) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + EVERY_S
        try:
            self._work(tail, committed, now)
        except OSError as error:  # a full disk, a log that is a link: the door's keeper says so and closes it
            log.warning("housekeeping_failed", reason=str(error))

    def _work(self, tail: Tail, committed: Position | None, now: float) -> None:
        ensure_private(self.door)
        if self._is_due(now):
            aside = rotate(self.door)
            self._written_since = None
            log.info("log_rotated", to=aside.name, bytes=aside.stat().st_size)
        self._remove(tail, committed)

    def _is_due(self, now: float) -> bool:
        size = self.door.log.stat().st_size
        if size == 0:
            self._written_since = None
            return False
        if self._written_since is None:
            self._written_since = now
        return size >= self.rotate_bytes or now - self._written_since >= self.rotate_after.total_seconds()

    def _remove(self, tail: Tail, committed: Position | None) -> None:
        """Removes published files that have been kept long enough."""
        for path in tail.rotated():
            old = time.time() - path.stat().st_mtime > self.keep.total_seconds()
            if not old or not tail.is_published(path, committed):
                break
            path.unlink()
            log.info("log_removed", file=path.name)
