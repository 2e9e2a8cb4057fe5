"""Patience of a job with a peer that is away: the child asks again, and its service says what for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from penstock.contracts.error_details import error_of_call
from penstock.contracts.errors import Conflict, DeadlineExceeded, Unavailable
from penstock.runtime import rpc
from penstock.runtime.backoff import Backoff
from penstock.runtime.child import JobContext
from penstock.runtime.readiness import Readiness

T = TypeVar("T")


Call = Callable[..., Awaitable[T]]


async def patiently(
    job: JobContext, peer: str, call_of: Callable[[Any], Call[T]], request: Message, timeout_s: float
) -> T:
    """The peer's answer, however long it is away; `call_of` makes the call of a channel to it. Progress
    tells the service when the job waits (`waits_for`, `why`) and when it has the answer (`has`).

    Raises what the peer refuses with, and Conflict where it did not answer within `timeout_s`.
    """
    async with rpc.connect(job.settings.platform.peer(peer)) as channel:
        return await _answered(job, peer, call_of(channel), request, timeout_s)


async def _answered(job: JobContext, peer: str, call: Call[T], request: Message, timeout_s: float) -> T:
    backoff = Backoff(first=0.5, longest=10.0)
    while True:
        try:
            answer = await call(request, timeout=timeout_s)
        except grpc.RpcError as error:
            told = error_of_call(error)
            if isinstance(told, DeadlineExceeded):  # the runtime would give it twenty times more
                raise Conflict(
                    f"{peer}: {told.message}", where=told.where, remedy=told.remedy or "Start it again"
                ) from error
            if not isinstance(told, Unavailable):
                raise told from error
            delay = backoff.next()
            why = f"{told.message}; job {job.id} asks again in {delay:.0f} s"
            job.progress({"waits_for": peer, "why": why})
            await asyncio.sleep(delay)
        else:
            job.progress({"has": peer})
            return answer


class Awaited:
    """Peers that jobs wait for, as the service's readiness tells them."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        self._waiting: dict[str, str] = {}  # job → the peer that it waits for

    def waits_for(self, job: str, peer: str, why: str) -> None:
        self._waiting[job] = peer
        self._readiness.waits_for(peer, why)

    def goes_on(self, job: str) -> None:
        peer = self._waiting.pop(job, None)
        if peer and peer not in self._waiting.values():
            self._readiness.has(peer)
