"""Handlers of control events: one per event type, applied once per event, and what its failure
becomes.

Three words for failure. *Retry*: it may succeed later, unchanged; the same message comes again, in
order, after a growing delay. *Reject*: it never will; the message becomes a dead letter and the next
one goes on. *Invalid*: it is no event of ours; a dead letter too.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import grpc
import structlog
from opentelemetry import trace
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError

from penstock.contracts import metrics
from penstock.contracts.errors import TREATMENTS, DeadlineExceeded, Invalid, PenstockError
from penstock.contracts.events import EVENTS, Event, decode
from penstock.packages.keys import NoKey
from penstock.runtime.backoff import Backoff
from penstock.runtime.cloud_events import Received
from penstock.runtime.database import DatabaseAway
from penstock.runtime.effect import Effect, Write, has_applied
from penstock.runtime.messaging import DESTINATION, GROUP, processing
from penstock.runtime.metrics import counter
from penstock.runtime.store import Store
from penstock.runtime.telemetry import context_of, within

log = structlog.get_logger(__name__)
tracer = trace.get_tracer(__name__)
_EVENTS = counter(metrics.CONTROL_EVENTS)

Applied = Callable[[Any, Effect], None]
Handler = Applied | Callable[[Any], Awaitable[Write | None]]
Replayed = Callable[[Any], Awaitable[None] | None]
Reject = Callable[[Received, Exception, int], Awaitable[None]]
H = TypeVar("H", bound=Handler)
R = TypeVar("R", bound=Replayed)

_LATER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@dataclass(frozen=True)
class Retries:
    """Bounds on how long a message may hold up those behind it, in seconds.

    `first` and `longest` delay between two tries. `patience` counts from the first failure; then the
    message is rejected. A restart of the service begins to count anew, and so does the absence of
    its database, or of the keys to judge by. A handler on the event loop may take `longest_run`; it
    is tried again then.
    """

    first: float = 0.2
    longest: float = 10.0
    patience: float = 300.0
    longest_run: float = 120.0


class Patience:
    """Patience with one message, from its first failure on."""

    def __init__(self, retries: Retries) -> None:
        self.tries = 0
        self._patience = retries.patience
        self._since = time.monotonic()
        self._backoff = Backoff(first=retries.first, longest=retries.longest)

    def lasts(self, error: Exception) -> bool:
        """Counts a failure; whether the message is to be tried again."""
        self.tries += 1
        if isinstance(error, DatabaseAway | NoKey):
            self._since = time.monotonic()  # nothing can be applied, or judged, meanwhile
        return may_pass(error) and time.monotonic() - self._since < self._patience

    def delay(self) -> float:
        """Returns the seconds until the next try."""
        return self._backoff.next()


class Router:
    """A service's handlers under one consumer group. Wire it with `service.consume(router)`."""

    def __init__(self, group: str, store: Store | None = None, *, retries: Retries = Retries()) -> None:
        self.group = group
        self.store = store
        self.retries = retries
        self.handlers: dict[str, tuple[type[Event], Handler]] = {}
        self.replays: dict[str, tuple[type[Event], Replayed]] = {}
        self.why = ""  # the last event of a replay that was tried in vain waits
        self.read: Callable[[Received], None] = lambda received: None
        """Told of each event of a replay as it is read, before it and those that were read with it are
        applied: one may make an earlier one void.
        """
        self._caught_up: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    @property
    def topics(self) -> tuple[str, ...]:
        """Consumed by the group, by their names in the catalogue."""
        return tuple(sorted({event.topic for event, _ in self.handlers.values()}))

    @property
    def replayed_topics(self) -> tuple[str, ...]:
        return tuple(sorted({event.topic for event, _ in self.replays.values()}))

    def on(self, *events: type[Event]) -> Callable[[H], H]:
        """Registers a handler for each of `events`; it takes effect once per event, however often that comes.

        `def handler(event, effect)` runs on the database writer's thread, within the transaction
        that holds the event's inbox row; what it raises undoes all of it. Work that takes longer
        than a few statements would hold up every other writer: `async def handler(event)` does
        it first, on the event loop, and returns what the transaction is to do, a function of the
        effect, or None. After a retry or a crash the handler runs again from its start, so what it
        does outside the transaction must bear that.
        """
        if self.store is None:
            raise ValueError(f"router {self.group} has no store; only replays work without one")

        def register(handler: H) -> H:
            self._register(self.handlers, events, handler)
            return handler

        return register

    def on_replay(self, *events: type[Event]) -> Callable[[R], R]:
        """`handler(event)` for state that every replica keeps in memory: read from the topic's
        beginning at each start, no group, no inbox.

        On a compacted topic each key's last event comes at least. What may pass is retried, in
        order; after another error the event is left out, a dead letter.
        """

        def register(handler: R) -> R:
            self._register(self.replays, events, handler)
            return handler

        return register

    def _register(
        self, table: dict[str, tuple[type[Event], Any]], events: Collection[type[Event]], handler: Any
    ) -> None:
        for event in events:
            if event.ce_type() in table:
                raise ValueError(f"{event.__name__} has a handler in {self.group}")
            table[event.ce_type()] = (event, handler)

    async def caught_up(self, topic: str) -> None:
        """Waits until everything has been replayed that was in the topic when this process began to
        read it. Waits while Kafka is away.
        """
        await self._caught_up[topic].wait()

    # -- called by the control plane ---------------------------------------------------------------

    def count(self, topic: str, outcome: str, events: int = 1) -> None:
        """Counts events by outcome: `applied`, `skipped`, `retried`, `rejected`; `replayed`, `left_out`."""
        _EVENTS.add(events, {DESTINATION: topic, GROUP: self.group, "outcome": outcome})

    def mark_caught_up(self, topic: str) -> None:
        self._caught_up[topic].set()

    async def handle(self, received: Received, allow: Callable[[], None] = lambda: None) -> bool:
        """Applies one message once; False for one that was skipped. Raises what the handler raises,
        and Invalid for what is no event. `allow` is called when the handler has done its work, in the
        transaction that would keep it; what it raises undoes all.
        """
        kind = received.event_type
        if kind is None:
            raise Invalid(
                "no ce_type header says which event this is",
                where=received.place,
                remedy="Publish control events with CloudEvents headers in binary mode",
            )
        if kind not in self.handlers:
            if kind not in EVENTS:
                log.info("event_of_unknown_type_skipped", event_type=kind, place=received.place)
            return False
        if received.value is None:
            log.debug("tombstone_skipped", place=received.place)
            return False
        declared, handler = self.handlers[kind]
        event = decoded(received)
        about = {"event_id": received.event_id, "event_type": declared.__name__}
        if pipeline := getattr(event, "pipeline", None):
            about["pipeline"] = pipeline
        with (
            tracer.start_as_current_span(
                f"process {declared.__name__}",
                context=context_of(received.headers),
                kind=trace.SpanKind.CONSUMER,
                attributes={
                    "messaging.system": "kafka",
                    "messaging.destination.name": received.topic,
                    "cloudevents.event_id": received.event_id,
                },
            ),
            structlog.contextvars.bound_contextvars(**about),
            processing(received.topic, self.group),
        ):
            return await self._apply(received.event_id, event, handler, allow)

    async def _apply(self, event_id: str, event: Event, handler: Handler, allow: Callable[[], None]) -> bool:
        assert self.store is not None

        def kept(work: Write, effect: Effect) -> None:
            work(effect)
            allow()

        if inspect.iscoroutinefunction(handler):
            known = await self.store.read(lambda session: has_applied(session, self.group, event_id))
            new = False
            if not known:
                work = await self._prepared(event, handler)
                new = await self.store.apply(self.group, event_id, partial(kept, work))
        else:
            work = partial(cast(Applied, handler), event)
            new = await self.store.apply(self.group, event_id, partial(kept, work))
        if not new:
            log.debug("event_repeated", event_id=event_id, event_type=event.ce_type())
        return new

    async def _prepared(self, event: Event, handler: Handler) -> Write:
        """Raises DeadlineExceeded where the handler takes longer than it may."""
        try:
            async with asyncio.timeout(self.retries.longest_run):
                return await cast("Callable[[Event], Awaitable[Write | None]]", handler)(event) or _nothing
        except TimeoutError as error:
            why = f"its handler has not ended within {self.retries.longest_run:.0f} s"
            raise DeadlineExceeded(why, where=type(event).__name__) from error

    async def replay(self, received: Received, reject: Reject) -> None:
        """Hands one message of a replayed topic to its handler, within the trace that it belongs
        to. `reject` makes a dead letter of one that cannot be applied, from its error and the number
        of tries; raises what that raises.
        """
        if received.event_type in self.replays and received.value is not None:
            _, handler = self.replays[received.event_type]
            with within(context_of(received.headers)):
                done = await self._replay(received, handler, reject)
            self.count(received.topic, "replayed" if done else "left_out")

    async def _replay(self, received: Received, handler: Replayed, reject: Reject) -> bool:
        patience = Patience(self.retries)
        while True:
            try:
                answer = handler(decoded(received))
                if inspect.isawaitable(answer):
                    await answer
                return True
            except Exception as error:
                if not patience.lasts(error):
                    await reject(received, error, patience.tries)
                    return False
                self.why = f"{type(error).__name__}: {error}"
            log.warning("replay_retried", place=received.place, event_type=received.event_type, why=self.why)
            await asyncio.sleep(patience.delay())


def _nothing(_effect: Effect) -> None:
    """Leaves the inbox row alone."""


def may_pass(error: Exception) -> bool:
    """Tells whether the same message may succeed later: retry, or reject."""
    if isinstance(error, PenstockError):
        return TREATMENTS[error.kind].retry
    if isinstance(error, grpc.RpcError):
        return getattr(error, "code", lambda: None)() in _LATER
    return isinstance(error, OperationalError | OSError)  # a full disk, too


def decoded(received: Received) -> Event:
    """Reads the event of a message. Raises Invalid for what is none."""
    try:
        event = decode(received.event_type or "", received.value or b"")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise Invalid(f"{first['msg']}{f' at {field}' if field else ''}", where=received.place) from error
    assert event is not None
    if event.topic != received.topic:
        raise Invalid(f"{type(event).__name__} belongs on {event.topic}", where=received.place)
    return event
