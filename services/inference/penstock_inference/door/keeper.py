"""Keeper of the door: closes it while predictions must be recorded and cannot be, and holds
predictions while Triton is away.

Each answer waits until its line is in the log, and is withheld when it cannot be written
(`recording.lua`). The keeper acts before it comes to that: the door closes, readiness with it,
while a trial write fails or the disk is almost full, and opens again.
"""

from __future__ import annotations

import asyncio
import http.client
import shutil
from collections.abc import Callable, Collection
from typing import Final

import structlog

from penstock.runtime.local_http import ask
from penstock.runtime.readiness import Readiness
from penstock_inference.door.door import Door
from penstock_inference.door.files import write_clusters, write_routes

log = structlog.get_logger(__name__)

_ASK_S: Final = 2.0  # deadline of the question whether Envoy is ready, in seconds
_TRIAL_BYTES: Final = 64 << 10
# Pause before the routes: Envoy refuses a route to a cluster that it has not read yet.
_CLUSTERS_FIRST_S: Final = 0.2


class DoorKeeper:
    """Keeper of one door."""

    def __init__(
        self,
        door: Door,
        readiness: Readiness,
        *,
        required: Callable[[], bool],
        served: Callable[[], Collection[str]],
        reserve_bytes: int,
    ) -> None:
        """`required`: whether any of the `served` pipelines requires the record. With less than
        `reserve_bytes` of free disk the log counts as not writable.
        """
        self._door = door
        self._readiness = readiness
        self._required = required
        self._served = served
        self._reserve = reserve_bytes
        self._told = False
        self.closed: str | None = None  # reason why the door is closed; None while it is open
        self.held = False  # whether predictions wait in the door until Triton serves again

    def hold(self, held: bool) -> None:
        """Lets predictions wait in the door, or go on. Blocks for a write when that changes."""
        if held != self.held:
            write_clusters(self._door, held=held)
            self.held = held
            log.info("door_held" if held else "door_released")

    async def run(self, every_s: float) -> None:
        """Writes the clusters as they are now, then looks again and again."""
        write_clusters(self._door, held=self.held)
        await asyncio.sleep(_CLUSTERS_FIRST_S)
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(every_s)

    def look(self) -> None:
        """Looks at log, disk and Envoy once, and opens or closes the door. Blocks for some
        milliseconds.
        """
        problem = self._log_problem()
        if problem or self._told:
            self._readiness.fact(
                "log",
                f"the door's log cannot be written: {problem}"
                if problem
                else "the door's log can be written again",
            )
            self._told = True
        required = self._required()
        if not (problem and required):
            self.closed = None
            self._readiness.has("door's log")
        else:
            self.closed = (
                self.closed or f"predictions cannot be recorded, and a pipeline requires it: {problem}"
            )
            self._readiness.waits_for("door's log", problem)
        if write_routes(self._door, self.closed, required=required, served=self._served()):
            log.info("door_written", closed=self.closed, record="required" if required else "best_effort")
        self._look_for_envoy()

    def _log_problem(self) -> str | None:
        # Reason why the log cannot be written; None while it can.
        if self._door.log.is_symlink() or (self._door.log.exists() and not self._door.log.is_file()):
            return f"{self._door.log} is no file"
        trial = self._door.logs / "trial"
        try:
            free = shutil.disk_usage(self._door.logs).free
            if free < self._reserve:
                return f"{free >> 20} MiB are free where {self._reserve >> 20} are kept in reserve"
            trial.write_bytes(b"\0" * _TRIAL_BYTES)
        except OSError as error:
            return str(error)
        finally:
            trial.unlink(missing_ok=True)
        return None

    def _look_for_envoy(self) -> None:
        try:
            state = ask(self._door.admin, "GET", "/ready", within_s=_ASK_S).decode().strip()
        except (OSError, http.client.HTTPException) as error:
            state = str(error)
        if state == "LIVE":
            self._readiness.has("envoy")
        else:
            self._readiness.waits_for("envoy", f"at {self._door.admin}: {state}")
