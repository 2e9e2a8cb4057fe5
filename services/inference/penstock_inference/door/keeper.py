"""Opens and closes the door: where predictions must be recorded and cannot be, none is made.

Each answer waits until its line is in the log, and is withheld when it cannot be written
(`recording.lua`); this is the same for all calls before it comes to that: the door closes while a
trial write fails or the disk is almost full, its readiness with it, and opens again.
"""

from __future__ import annotations

import asyncio
import http.client
import shutil
from collections.abc import Callable
from typing import Final

import structlog

from penstock_inference.door.envoy import Door
from penstock_inference.door.files import write_clusters, write_routes
from penstock_inference.serving.serving import Status

log = structlog.get_logger(__name__)

_ASK_S: Final = 2.0
_TRIAL_BYTES: Final = 64 << 10
_CLUSTERS_FIRST_S: Final = 0.2
"""Envoy takes a route to a cluster that it does not know yet for an error."""


class DoorKeeper:
    """One door. `closed` is why it is closed, or None; `held` whether predictions wait in it until
    Triton serves again.
    """

    def __init__(
        self, door: Door, status: Status, *, required: Callable[[], bool], reserve_bytes: int
    ) -> None:
        self._door = door
        self._status = status
        self._required = required
        self._reserve = reserve_bytes
        self._told = False
        self.closed: str | None = None
        self.held = False

    def hold(self, held: bool) -> None:
        """Called at each look at Triton. Blocks for a write when it changes."""
        if held != self.held:
            write_clusters(self._door, held=held)
            self.held = held
            log.info("door_held" if held else "door_released")

    async def run(self, every: float) -> None:
        write_clusters(self._door, held=self.held)
        await asyncio.sleep(_CLUSTERS_FIRST_S)
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(every)

    def look(self) -> None:
        """Once. Blocks for some milliseconds."""
        problem = self._log_problem()
        if problem or self._told:
            self._status.fact(
                "log",
                f"the door's log cannot be written: {problem}"
                if problem
                else "the door's log can be written again",
            )
            self._told = True
        required = self._required()
        if not (problem and required):
            self.closed = None
            self._status.has("door's log")
        else:
            self.closed = (
                self.closed or f"predictions cannot be recorded, and a pipeline requires it: {problem}"
            )
            self._status.waits_for("door's log", problem)
        if write_routes(self._door, self.closed, required=required):
            log.info("door_written", closed=self.closed, record="required" if required else "best_effort")
        self._look_for_envoy()

    def _log_problem(self) -> str | None:
        """Why the log cannot be written, or None."""
        if self._door.log.is_symlink() or (self._door.log.exists() and not self._door.log.is_file()):
            return f"{self._door.log} is no file"
        trial = self._door.folder / "trial"
        try:
            free = shutil.disk_usage(self._door.folder).free
            if free < self._reserve:
                return f"{free >> 20} MiB are free where {self._reserve >> 20} are kept in reserve"
            trial.write_bytes(b"\0" * _TRIAL_BYTES)
        except OSError as error:
            return str(error)
        finally:
            trial.unlink(missing_ok=True)
        return None

    def _look_for_envoy(self) -> None:
        connection = http.client.HTTPConnection(self._door.admin, timeout=_ASK_S)
        try:
            connection.request("GET", "/ready")
            state = connection.getresponse().read().decode().strip()
        except (OSError, http.client.HTTPException) as error:
            state = str(error)
        finally:
            connection.close()
        if state == "LIVE":
            self._status.has("envoy")
        else:
            self._status.waits_for("envoy", f"at {self._door.admin}: {state}")
