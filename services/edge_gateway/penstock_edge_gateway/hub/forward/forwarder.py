"""Forwarder: commits what sites forward, each batch with its lane's position in one Kafka transaction.

Batches that wait are committed together, whichever sites they are of: a transaction costs the
broker some 10 ms, however few messages it holds. After a crash at any point the next session ends
what was left open (the transactional id is the same), then reads the positions: a batch is written
whole or not at all, and a repeat of it is answered from its lane's position.

What fails together is tried apart: after a failure one batch a transaction, and a batch in which
Kafka refuses a message in parts. So nobody waits for another's odd record. librdkafka's producer does
not go on behind such an abort (OUT_OF_ORDER_SEQUENCE_NUMBER comes next): each time there is another.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

import structlog

from penstock.contracts.errors import Invalid, Unavailable
from penstock.contracts.topics import dead_letter_topic
from penstock.edge_gateway.v1.hub_pb2 import Forwarded
from penstock.runtime import dead_letters
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.kafka.messages import Produced
from penstock.runtime.kafka.reading import Reader
from penstock.runtime.kafka.recovery import Recovery
from penstock.runtime.kafka.transaction import MessageRefused, Transactions
from penstock.runtime.readiness import Readiness
from penstock.runtime.settings import KafkaSettings
from penstock_edge_gateway.hub.forward import positions
from penstock_edge_gateway.hub.forward.lanes import Batch, Lane, Position
from penstock_edge_gateway.hub.forward.lease import LOOK_EVERY_S, Lease
from penstock_edge_gateway.hub.forward.parts import Parts
from penstock_edge_gateway.hub.forward.translation import Declared, of_event, of_prediction
from penstock_edge_gateway.hub.forward.write import GROUP, Reached, Translate, Write, count_from_zero
from penstock_edge_gateway.standby import STANDBY

log = structlog.get_logger(__name__)

WAITING: Final = 64  # batches, of 1 MiB or so, that may wait; whoever comes then sends his again
TOGETHER: Final = 16  # batches in one transaction
APART_S: Final = 5.0  # for a batch by itself, while others wait
TAKE_S: Final = 0.5  # to wait for a batch, between two looks at the lease


@dataclass(frozen=True)
class _Asked:
    batch: Batch
    answer: Future[Reached]


class Forwarder:
    """Commits in one thread; calls come from the event loop."""

    def __init__(self, kafka: KafkaSettings, declared: Declared, lease: Lease, readiness: Readiness) -> None:
        self._kafka = kafka
        self._declared = declared
        self._lease = lease
        self._recovery = Recovery(GROUP, readiness, thing="forward")
        self._queue: queue.Queue[_Asked] = queue.Queue(WAITING)
        self._positions: dict[Lane, Position] | None = None  # None while no session forwards
        self._topics: set[str] = set()  # known to be there
        self._together = TOGETHER
        self._transactions: Transactions

    # -- on the event loop -------------------------------------------------------------------------

    async def forward(self, batch: Batch) -> Reached:
        """Returns when all of the batch that topics take stands in them. Raises Refused for a site that
        was superseded, Unavailable where the batch is to be sent again.
        """
        self._known()
        asked = _Asked(batch, Future())
        try:
            self._queue.put_nowait(asked)
        except queue.Full:
            raise Unavailable(f"{WAITING} batches wait already", remedy="Send it again later") from None
        return await asyncio.wrap_future(asked.answer)

    def positions(self, site: str) -> dict[str, Position]:
        """Returns how far each lane of the site was forwarded. Raises Unavailable."""
        return {lane.name: at for lane, at in list(self._known().items()) if lane.site == site}

    def incarnation(self, site: str) -> int:
        """Number of the newest start of the site that anything was forwarded from; 0 where this hub
        knows of none.
        """
        known = list((self._positions or {}).items())
        return max((at.incarnation for lane, at in known if lane.site == site), default=0)

    def _known(self) -> dict[Lane, Position]:
        if (known := self._positions) is None:
            raise Unavailable(
                f"this hub does not forward: {self._lease.why}", where=STANDBY, remedy="Try again"
            )
        return known

    # -- in the thread -----------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Forwards until `stop` is set. Raises ClientFailed; waits out everything that passes."""
        count_from_zero()
        try:
            self._recovery.run(stop, lambda: self._session(stop))
        finally:
            self._lease.drop()

    def _session(self, stop: threading.Event) -> None:
        if not self._lease.take():
            self._recovery.back()  # who stands by waits for nothing
            stop.wait(LOOK_EVERY_S)
            return
        letters = dead_letters.topic_of_letters(dead_letter_topic(positions.TOPIC, GROUP), GROUP)
        ensure_topics(self._kafka, [letters])
        self._topics.clear()
        self._open()
        self._recovery.back()
        log.info("forwarding", lanes=len(self._known()))
        try:
            while not stop.is_set() and self._lease.take():
                if asked := self._take():
                    self._answer(asked)
        finally:
            self._positions = None
            while not self._queue.empty():
                _fail(self._take(), "this hub does not forward any more")

    def _open(self) -> None:
        """Ends what is open under the hubs' one name and fences who else has it; then reads positions."""
        self._check_lease()
        self._transactions = Transactions(
            self._kafka, self._kafka.topic(GROUP), group=GROUP, compression="lz4"
        )
        self._positions = positions.read(self._kafka, GROUP)

    def _check_lease(self) -> None:
        """Raises Unavailable where another hub forwards."""
        if not self._lease.take():
            raise Unavailable(f"this hub does not forward any more: {self._lease.why}")

    def _take(self) -> list[_Asked]:
        """Waits for the first batch, and takes with it those that wait already."""
        try:
            found = [self._queue.get(timeout=TAKE_S)]
        except queue.Empty:
            return []
        while len(found) < self._together and not self._queue.empty():
            found.append(self._queue.get_nowait())
        return [one for one in found if one.answer.set_running_or_notify_cancel()]

    def _answer(self, asked: Sequence[_Asked]) -> None:
        """Commits batches and answers them. Raises what ends the session: they are sent again, then."""
        try:
            self._commit_together(asked)
            self._together = min(2 * self._together, TOGETHER)
        except BaseException as error:
            self._together = 1
            left = [one for one in asked if not one.answer.done()]
            _fail(left, f"the batch may not have been written: {error}")
            raise

    def _commit_together(self, asked: Sequence[_Asked]) -> None:
        write = Write(self._known(), self._message)
        answers: list[tuple[_Asked, Reached]] = []
        # Calls of one site may overtake each other on their way here.
        for one in sorted(asked, key=lambda one: one.batch.first):
            try:
                answers.append((one, write.add(one.batch)))
            except Exception as error:  # nobody else waits for it
                one.answer.set_exception(error)
        try:
            self._commit(write)
        except MessageRefused as refused:
            log.warning("transaction_refused", batches=len(answers), why=refused.args[0].str())
            self._transactions.abort()
            self._open()
            for one, _ in answers:
                self._commit_apart(one)
        else:
            for one, reached in answers:
                one.answer.set_result(reached)

    def _commit_apart(self, one: _Asked) -> None:
        """Commits a batch in parts, with a letter in place of each record that Kafka refuses alone. What
        it does not come to in time the site sends again.
        """
        parts, until = Parts(len(one.batch.records)), time.monotonic() + APART_S
        while not one.answer.done():
            write = Write(self._known(), _refusing(parts.odd) if parts.odd else self._message)
            try:
                reached = write.add(one.batch, parts.records)
            except Exception as error:
                _answer_parts(one, parts, error)
                return
            try:
                self._commit(write)
            except MessageRefused as refused:
                self._transactions.abort()
                self._open()
                if not parts.refused(refused):
                    _answer_parts(one, parts, Unavailable(f"Kafka refuses it: {refused.args[0].str()}"))
            else:
                parts.taken(reached)
                if not write.messages or time.monotonic() > until:
                    one.answer.set_result(parts.reached or reached)

    def _commit(self, write: Write) -> None:
        if write.messages:
            self._transactions.begin()
            self._transactions.produce(write.messages)
            self._transactions.commit()
        else:
            self._check_lease()  # Kafka, which would tell that another forwards by now, is not asked
        self._known().update(write.positions)
        write.tell()
        self._recovery.progressed()

    def _message(self, site: str, record: Forwarded) -> Produced:
        """Raises Unavailable while the topic of an applied pipeline is still to be made."""
        if record.WhichOneof("what") == "event":
            made = of_event(record.event, self._declared)
        else:
            made = of_prediction(record.prediction, site, self._declared)
        if made.topic not in self._topics:
            with Reader(self._kafka, GROUP) as reader:
                if not reader.partitions(made.topic):
                    raise Unavailable(f"there is no topic {made.topic} yet", remedy="Send it again later")
            self._topics.add(made.topic)
        return made


def _refusing(refused: MessageRefused) -> Translate:
    """Makes no message of any record: Kafka does not take it."""

    def refuse(_site: str, _record: Forwarded) -> Produced:
        raise Invalid(f"Kafka refuses it: {refused.args[0].str()}")

    return refuse


def _answer_parts(one: _Asked, parts: Parts, error: Exception) -> None:
    """Answers how far it came, or why it did not begin."""
    if parts.reached:
        one.answer.set_result(parts.reached)
    else:
        one.answer.set_exception(error)


def _fail(asked: Iterable[_Asked], why: str) -> None:
    for one in asked:
        one.answer.set_exception(Unavailable(why, remedy="Send it again"))
