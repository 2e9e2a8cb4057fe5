"""The status call of every service: what it waits for, and what it says of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from importlib import metadata
from typing import Any

import grpc
import structlog

from penstock.runtime import put_aside, rpc
from penstock.runtime.readiness import Readiness
from penstock.status.v1 import status_pb2, status_pb2_grpc

log = structlog.get_logger(__name__)

# Short texts by a key that is not shown: a later text of the same key replaces the earlier one.
Facts = Mapping[str, str]
READ_WITHIN_S = 1.0  # longer reading is not waited for: what was read last is told


class StatusServicer(status_pb2_grpc.StatusServiceServicer):
    """Calls each of `readers` in a thread, each time somebody asks. It may block; where it raises,
    its last facts stand.
    """

    def __init__(self, service: str, readiness: Readiness, started_at: datetime) -> None:
        self._service = service
        self._readiness = readiness
        self._started_at = started_at
        self.readers: list[Callable[[], Facts]] = []
        self._told: dict[int, Facts] = {}
        self._reading: asyncio.Task[None] | None = None

    async def GetStatus(  # noqa: N802  gRPC's name
        self, request: status_pb2.GetStatusRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> status_pb2.GetStatusResponse:
        await self._read()
        status = status_pb2.ServiceStatus(
            service=self._service,
            ready=self._readiness.ready,
            waiting=[
                status_pb2.Waiting(thing=wait.thing, why=wait.why, since=rpc.timestamp(wait.since))
                for wait in self._readiness.waiting
            ],
            facts=(*self._readiness.facts, *self._facts(), *put_aside.said()),
            started_at=rpc.timestamp(self._started_at),
            version=metadata.version("penstock-runtime"),
        )
        return status_pb2.GetStatusResponse(services=[status])

    async def _read(self) -> None:
        """Reads one at a time: a database that does not answer holds up one thread, not all."""
        if self.readers:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(asyncio.to_thread(self._read_all))
            await asyncio.wait([self._reading], timeout=READ_WITHIN_S)

    def _facts(self) -> Collection[str]:
        found: dict[str, str] = {}
        for told in list(self._told.values()):
            found |= told
        return found.values()

    def _read_all(self) -> None:
        for number, read in enumerate(self.readers):
            try:
                self._told[number] = read()  # as a whole: what it tells no more, a deleted pipeline's, goes
            except Exception as error:
                log.info("facts_not_read", why=f"{type(error).__name__}: {error}")
