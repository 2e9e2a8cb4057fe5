"""Content of one transaction: messages of the batches that are committed together, their lanes'
positions, and letters about the records that no topic takes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from penstock.contracts import metrics
from penstock.contracts.errors import PenstockError, Unavailable
from penstock.contracts.topics import dead_letter_topic
from penstock.edge_gateway.v1.hub_pb2 import Forwarded, Gap
from penstock.runtime import dead_letters
from penstock.runtime.kafka.messages import BY_KEY, Partition, Produced
from penstock.runtime.messaging import sent
from penstock.runtime.metrics import counter
from penstock_edge_gateway.hub.forward import positions
from penstock_edge_gateway.hub.forward.lanes import (
    BATCH_RECORDS,
    LANES,
    Batch,
    Lane,
    Position,
    rest_of,
)

log = structlog.get_logger(__name__)
_FORWARDED = counter(metrics.FORWARDED)

GROUP: Final = "penstock.edge_gateway"

Translate = Callable[[str, Forwarded], Produced]
"""Makes the message of a site's event or prediction. Raises Unavailable where it may yet be made."""


@dataclass(frozen=True)
class Reached:
    """Sequence up to which a lane was forwarded, and those of the batch that no topic takes, with why."""

    sequence: int
    rejected: Mapping[int, Exception]


class Write:
    """Content of one transaction. Nothing counts before it is committed."""

    def __init__(self, known: Mapping[Lane, Position], translate: Translate) -> None:
        self.messages: list[Produced] = []
        self.positions: dict[Lane, Position] = {}  # those that it changes
        self._known = known
        self._translate = translate
        self._told: list[Callable[[], None]] = []

    def add(self, batch: Batch, most: int = BATCH_RECORDS) -> Reached:
        """Adds what is new of a batch, the first `most` records of it, up to the first one that has to
        wait; or nothing. Raises Refused for a site that was superseded, and Unavailable where the first
        one has to wait: the batch is to be sent again.
        """
        lane = batch.lane
        rest = rest_of(batch, self.positions.get(lane) or self._known.get(lane), most)
        position, messages = rest.position, list[Produced]()
        rejected: dict[int, Exception] = {}
        for sequence, record in rest.records:
            if record.WhichOneof("what") == "gap":
                self._told.append(lambda gap=record.gap: _tell_gap(lane, gap))  # type: ignore[misc]
                continue
            try:
                message = self._translate(lane.site, record)
                if (record.event.pipeline, message.key) not in batch.erased:
                    messages.append(message)
            except Unavailable:
                if sequence == rest.records[0].sequence:
                    raise
                position = position._replace(sequence=sequence - 1)
                break
            except Exception as error:  # one record must not stop its lane for good
                rejected[sequence] = error
                messages.append(_letter(lane, sequence, record, error))
        if rest.records:
            self.messages += [*messages, positions.message(lane, position)]
            self.positions[lane] = position
            self._told.append(lambda: _tell(lane, len(messages) - len(rejected), rejected))
        return Reached(position.sequence, rejected)

    def tell(self) -> None:
        """Says in metrics and log what was committed."""
        for one in self._told:
            one()


def _letter(lane: Lane, sequence: int, record: Forwarded, error: Exception) -> Produced:
    """A letter without the record, which is a person's data: no erasure looks for it there. Size and digest
    tell which it was of those that its publisher still has.
    """
    body = record.event.event or record.prediction
    place = Partition(positions.TOPIC, 0)
    headers = dead_letters.headers_about(place, sequence, GROUP, error)
    headers |= {
        "dlq-left-out": f"{len(body)} bytes, sha256:{hashlib.sha256(body).hexdigest()}",
        "dlq-site": lane.site,
        "dlq-reason": f"site {lane.site}, {lane.name} {sequence}: {error}"[:1000],
    }
    topic = dead_letter_topic(positions.TOPIC, GROUP)
    return Produced(topic, BY_KEY, None, b"", [(name, said.encode()) for name, said in headers.items()])


def count_from_zero() -> None:
    """Lets the counters be there before anything is forwarded."""
    sent(positions.TOPIC, 0)
    for lane in LANES:
        for outcome in ("written", "rejected", "dropped"):
            _count(lane, outcome, 0)


def _tell(lane: Lane, written: int, rejected: Mapping[int, Exception]) -> None:
    _count(lane.name, "written", written)
    if rejected:
        _count(lane.name, "rejected", len(rejected))
        dead_letters.count(positions.TOPIC, GROUP, len(rejected))
        sequence, error = next(iter(rejected.items()))
        log.error(
            "records_rejected",
            site=lane.site,
            lane=lane.name,
            records=len(rejected),
            first=sequence,
            why=str(error)[:1000],
            exc_info=None if isinstance(error, PenstockError) else error,
        )


def _tell_gap(lane: Lane, gap: Gap) -> None:
    _count(lane.name, "dropped", gap.records)
    why = Gap.Reason.Name(gap.reason).removeprefix("REASON_").lower()
    log.warning("records_dropped_at_the_site", site=lane.site, lane=lane.name, records=gap.records, why=why)


def _count(lane: str, outcome: str, records: int) -> None:
    _FORWARDED.add(records, {"lane": lane, "outcome": outcome})
