"""The way to the hub: one channel, tried again with one back-off by all who call, for as long as the
hub is away.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeVar

import grpc
import structlog

from penstock.contracts.error_details import error_in, error_of_call
from penstock.contracts.errors import Kind, PenstockError
from penstock.edge_gateway.v1 import hub_pb2, hub_pb2_grpc
from penstock.runtime.backoff import Backoff
from penstock_edge_gateway.site.introduction import apart
from penstock_edge_gateway.standby import STANDBY

log = structlog.get_logger(__name__)

Q = TypeVar("Q", contravariant=True)
A = TypeVar("A", covariant=True)

# A connection costs 6 kB in TLS. One that breaks soon after it stood counts as no success.
_FIRST_S: Final = 0.5
LONGEST_S: Final = 60.0
_HOLDS_S: Final = 120.0
_ANOTHER_S: Final = 0.05  # before a hub that stands by is followed by a try that may reach the other
# What another try may mend.
PASSES: Final = frozenset({Kind.UNAVAILABLE, Kind.DEADLINE, Kind.CANCELED, Kind.INTERNAL})
# A certificate that does not hold yet, or no more, is what a wrong clock makes of a good one.
_TLS: Final = re.compile("handshake|certificate|ssl", re.IGNORECASE)


class Method(Protocol[Q, A]):
    def __call__(self, request: Q, /, *, timeout: float, compression: grpc.Compression) -> Awaitable[A]: ...


class Hub:
    """The hub as a site calls it. On one event loop."""

    def __init__(
        self, channel: grpc.aio.Channel, wrong_clock: Callable[[], str | None] = lambda: None
    ) -> None:
        """`wrong_clock`: sentence that names both clocks, where this machine's is wrong. It may block."""
        self.stub: Any = hub_pb2_grpc.HubServiceStub(channel)
        self.why = "it was not called yet"
        """Why it is away; empty while it answers."""
        self.heard: datetime | None = None
        """Time of its last answer, by the site's clock."""
        self.incarnation = 0
        self.positions: Mapping[str, hub_pb2.Position] = {}
        self._wrong_clock = wrong_clock
        self._away = False
        self._delay = Backoff(first=_FIRST_S, longest=LONGEST_S)
        self._failed_at = float("-inf")
        self._next_try = float("-inf")
        self._answered = asyncio.Event()  # by a call after the last that failed

    async def hello(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Says that the site has started: learns its incarnation, and what of each lane the hub has. Said
        again, it asks to count once more; raises Refused while the start that followed it calls.
        """

        async def greeting() -> hub_pb2.HelloRequest:
            request = hub_pb2.HelloRequest(superseded=self.incarnation)
            request.clock.FromDatetime(clock())
            return request

        def waits(why: str) -> None:
            self.why = why

        answer: hub_pb2.HelloResponse = await self.call(self.stub.Hello, greeting, within=20, waits=waits)
        self.incarnation, self.positions = answer.incarnation, answer.positions
        if answer.HasField("clock") and (said := apart(answer.clock.ToDatetime(UTC), clock())):
            log.warning("wrong_clock", reason=said)

    async def call(
        self,
        method: Method[Q, A],
        request: Callable[[], Awaitable[Q]],
        *,
        within: float,
        waits: Callable[[str], None] = lambda why: None,
    ) -> A:
        """Calls until the hub answers, `within` seconds each time, each time with a new `request`. Raises
        what it answers other than that it is to be asked again; `waits` is told why it is.
        """
        delay = Backoff(first=_FIRST_S, longest=LONGEST_S)
        another = Backoff(first=_ANOTHER_S, longest=4 * _FIRST_S)
        while True:
            await self._due()
            began = _now()
            try:
                answer = await method(await request(), timeout=within, compression=grpc.Compression.Gzip)
            except grpc.aio.AioRpcError as error:
                told = error_of_call(error)
                if told.kind not in PASSES:
                    self._answers()
                    raise told from error
                if error_in(error.trailing_metadata()):  # the hub itself says so: no other call has to wait
                    self._answers()
                    waits(told.message)
                    await asyncio.sleep((another if told.where == STANDBY else delay).next())
                else:
                    await self._is_away(told, began)
            else:
                self._answers()
                return answer

    async def ask(self, method: Method[Q, A], request: Q, *, within: float) -> A:
        """Calls once, whatever other calls wait for. Raises what the hub says, or its way to it."""
        try:
            answer = await method(request, timeout=within, compression=grpc.Compression.Gzip)
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error) from error
        self._answers()
        return answer

    async def _due(self) -> None:
        """Waits until it is time for the next try, or until another call was answered."""
        while (left := self._next_try - _now()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._answered.wait(), left)

    def _answers(self) -> None:
        self._next_try = float("-inf")
        self._answered.set()
        if self._away or self.heard is None:  # one line a cut
            log.info("hub_answers")
        self.why, self._away = "", False
        self.heard = datetime.now(UTC)
        if _now() - self._failed_at > _HOLDS_S:
            self._delay.reset()

    async def _is_away(self, told: PenstockError, began: float) -> None:
        if began <= self._failed_at:  # another of those that were under way has said so
            return
        self._failed_at = _now()
        self._answered.clear()
        self._next_try = self._failed_at + self._delay.next()
        why = told.message or told.kind.value
        if _TLS.search(why):
            clocks = await asyncio.to_thread(self._wrong_clock)
            why = clocks or why
        if not self._away:  # one line a cut, not one a try
            log.warning("hub_away", reason=why)
        self.why, self._away = why, True


def _now() -> float:
    return asyncio.get_running_loop().time()
