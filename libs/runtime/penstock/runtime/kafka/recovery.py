"""Recovers from every failure of Kafka in one way: the session ends, and a new one begins with new
clients at what is durable.

librdkafka lets a transactional call be resumed after some errors; after an outage such a call has
been seen never to return (its issues 5456 and 5511). So none is resumed. It also drops every broker
that it knows upon an answer that names none, as a broker that was fenced may give, and finds no
other by itself (its issue 5301). So a client that Kafka does not answer is not kept.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException

from penstock.contracts import metrics
from penstock.contracts.errors import PenstockError, Unavailable
from penstock.runtime.backoff import Backoff
from penstock.runtime.messaging import GROUP
from penstock.runtime.metrics import counter
from penstock.runtime.readiness import Readiness

log = structlog.get_logger(__name__)
_INTERRUPTIONS = counter(metrics.INTERRUPTIONS)

LOOK_S: Final = 1.0  # that a look whether Kafka is back may take
RENEW_AFTER_S: Final = 20.0  # without an answer of Kafka's, until the client is made anew


class ClientFailed(PenstockError):
    """A Kafka client that will not work again in this process: another process has its name, or
    what it knows contradicts Kafka. The service exits, and its supervisor starts it anew.
    """


class Recovery:
    """Runs sessions with Kafka, one after the other, and says meanwhile whether Kafka is there."""

    def __init__(
        self,
        group: str,
        readiness: Readiness | None = None,
        *,
        thing: str = "",
        remedy: str = "Give each replica a name of its own: PENSTOCK_<SERVICE>__REPLICA",
        measured: bool = True,
    ) -> None:
        """`group` as the catalogue names it; `thing`: what `readiness` waits for while Kafka is away, by
        default Kafka for this group, as another client of the service's may have an answer;
        `remedy`: what to do where another process has this one's name; `measured`: sessions that
        end in an error are counted as the group's interruptions.
        """
        self._group = group
        self._readiness = readiness
        self._thing = thing or f"kafka for {group}"
        self._remedy = remedy
        self._measured = measured
        self._away = False
        self._unanswered_since = 0.0  # by this session's client; holds while Kafka is away
        self._progressed = False

    def run(self, stop: threading.Event, session: Callable[[], None]) -> None:
        """Runs `session` again and again until `stop` is set. Raises ClientFailed, and what
        `session` raises but for what may pass: Unavailable, and KafkaException that is not fatal.
        """
        self._count(0)
        backoff = Backoff(first=0.2, longest=2.0)
        while not stop.is_set():
            self._unanswered_since = time.monotonic()
            try:
                session()
                continue
            except Unavailable as error:
                why = str(error)
            except KafkaException as error:
                if error.args[0].fatal():
                    raise self.failed(error.args[0]) from error
                why = error.args[0].str()
            if self._progressed:
                backoff.reset()
            self._progressed = False
            log.warning("session_ended", group=self._group, why=why)
            self._count(1)
            self.away(why)
            stop.wait(backoff.next())

    def failed(self, error: KafkaError) -> ClientFailed:
        """Makes the error to raise for a fatal one of librdkafka's."""
        fenced = error.code() == KafkaError._FENCED
        return ClientFailed(error.str(), where=self._group, remedy=self._remedy if fenced else None)

    def progressed(self) -> None:
        """Something became durable in this session: should it end, the next one begins soon."""
        self._progressed = True

    def away(self, why: str) -> None:
        """Says that Kafka is away, until it is `back`. From any thread."""
        if not self._away:
            log.warning("kafka_away", group=self._group, why=why)
            self._unanswered_since = time.monotonic()
        self._away = True
        if self._readiness is not None:
            self._readiness.waits_for(self._thing, why)

    def back(self) -> None:
        """Says that Kafka is there again."""
        if self._away:
            self._away = False
            log.info("kafka_back", group=self._group)
        if self._readiness is not None:
            self._readiness.has(self._thing)

    def watch(self, client: Consumer, topic: str | None) -> None:
        """Looks whether Kafka is back, which librdkafka does not tell. To be called whenever a
        session has nothing to do; blocks for a second at most, and only while Kafka is away. Raises
        Unavailable after 20 s without an answer: the next session has a new client.

        `topic`: one that the client uses, in Kafka's name; None: all are asked for.
        """
        if not self._away:
            return
        try:
            client.list_topics(topic, timeout=LOOK_S)
        except KafkaException as error:
            if time.monotonic() - self._unanswered_since > RENEW_AFTER_S:
                raise Unavailable(f"no answer for {RENEW_AFTER_S:.0f} s: {error.args[0].str()}") from error
        else:
            self.back()

    def _count(self, interruptions: int) -> None:
        if self._measured:
            _INTERRUPTIONS.add(interruptions, {GROUP: self._group})
