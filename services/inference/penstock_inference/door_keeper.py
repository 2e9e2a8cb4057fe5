"""Opens and closes the door: where predictions must be recorded and cannot be, none is made.

Envoy drops a line that it cannot write and says so only in a counter. So the door closes before the disk is full (a reserve), and when a
write failed all the same; it opens again when a trial write succeeds.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import shutil
from collections.abc import Callable
from typing import Final

import structlog

from penstock.contracts.errors import Unavailable
from penstock_inference.door import write_clusters, write_routes
from penstock_inference.envoy import Door
from penstock_inference.serving import Status

log = structlog.get_logger(__name__)

_ASK_S: Final = 2.0
_FAILURES: Final = ("filesystem.write_failed", "filesystem.reopen_failed")
_TRIAL_BYTES: Final = 64 << 10
_CLUSTERS_FIRST_S: Final = 0.2
"""Envoy takes a route to a cluster that it does not know yet for an error."""


class Administration:
    """Envoy's admin port. Raises Unavailable while Envoy is away. Blocks."""

    def __init__(self, address: str) -> None:
        self.address = address

    def reopen_logs(self) -> None:
        self._ask("POST", "/reopen_logs")

    def log_failures(self) -> int:
        """Writes and reopenings of the log that failed since Envoy started."""
        counters = dict(line.split(": ", 1) for line in self._ask("GET", "/stats?filter=^filesystem\\.").splitlines() if ": " in line)
        return sum(int(counters.get(name, 0)) for name in _FAILURES)

    def _ask(self, method: str, path: str) -> str:
        connection = http.client.HTTPConnection(self.address, timeout=_ASK_S)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"Envoy does not answer at {self.address}: {error}") from error
        finally:
            connection.close()
        if answer.status != http.HTTPStatus.OK:
            raise Unavailable(f"Envoy answers {method} {path} with {answer.status}")
        return body


class DoorKeeper:
    """One door. `closed` is why it is closed, or None."""

    def __init__(self, door: Door, admin: Administration, status: Status, *, required: Callable[[], bool], reserve_bytes: int) -> None:
        self._door = door
        self._admin = admin
        self._status = status
        self._required = required
        self._reserve = reserve_bytes
        self._failures: int | None = None
        self._told = False
        self.closed: str | None = None

    async def run(self, every: float) -> None:
        write_clusters(self._door)
        await asyncio.sleep(_CLUSTERS_FIRST_S)
        write_routes(self._door)
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(every)

    def look(self) -> None:
        """Once. Blocks for some milliseconds."""
        problem = self._log_problem()
        if problem or self._told:
            self._status.fact("log", f"the door's log cannot be written: {problem}" if problem else "the door's log can be written again")
            self._told = True
        if problem and self._required():
            self._status.waits_for("door's log", problem)
            if not self.closed:
                self._set(f"predictions cannot be recorded, and a pipeline requires it: {problem}")
        else:
            self._status.has("door's log")
            if self.closed:
                self._set(None)

    def _set(self, closed: str | None) -> None:
        write_routes(self._door, closed)
        self.closed = closed
        if closed:
            log.warning("door_closed", reason=closed)
        else:
            log.info("door_opened")

    def _log_problem(self) -> str | None:
        """Why the log cannot be written, or None."""
        failed = self._new_failures()
        try:
            free = shutil.disk_usage(self._door.folder).free
            if free < self._reserve:
                return f"{free >> 20} MiB are free where {self._reserve >> 20} are kept in reserve"
            if not self._door.log.is_file():
                return f"{self._door.log} is no file"
            if failed or self.closed:
                self._try_writing()
                self._admin.reopen_logs()
        except (OSError, Unavailable) as error:
            return str(error)
        return "Envoy could not write it" if failed else None

    def _new_failures(self) -> bool:
        try:
            failures = self._admin.log_failures()
        except Unavailable as error:
            self._status.waits_for("envoy", error.message)
            self._failures = None
            return False
        self._status.has("envoy")
        before, self._failures = self._failures, failures
        return before is not None and failures > before

    def _try_writing(self) -> None:
        trial = self._door.folder / "trial"
        try:
            with trial.open("wb") as opened:
                opened.write(b"\0" * _TRIAL_BYTES)
                opened.flush()
                os.fsync(opened.fileno())
        finally:
            trial.unlink(missing_ok=True)
