"""Positions up to which each lane was forwarded, in `edge-positions.v1`: compacted, a message a lane.

Kafka forgets a consumer group's offsets after a week without a commit, and a site may be away for
longer: so a position is a message, in the transaction of what it counts.
"""

from __future__ import annotations

from typing import Final

import orjson
import structlog
from pydantic import TypeAdapter, ValidationError

from penstock.contracts.dataplane import SitePosition
from penstock.runtime.kafka.messages import Partition, Produced
from penstock.runtime.kafka.reading import Reader
from penstock.runtime.settings import KafkaSettings
from penstock_edge_gateway.hub.forward.lanes import Lane, Position

log = structlog.get_logger(__name__)

TOPIC: Final = "edge-positions.v1"
_AT_ONCE: Final = 10_000  # messages in memory at a time
_POSITION: Final = TypeAdapter(SitePosition)


def read(kafka: KafkaSettings, group: str) -> dict[Lane, Position]:
    """Reads them all, but for messages that are none: what was known of that lane holds. Whoever may
    still add to them must be fenced before. Blocks; raises Unavailable.
    """
    found: dict[Lane, Position] = {}
    where = Partition(TOPIC, 0)
    with Reader(kafka, group, fetch_wait_ms=50) as reader:
        low, end = reader.ends(where)
        for start in range(low, end, _AT_ONCE):
            for message in reader.span(where, start, min(start + _AT_ONCE, end), lambda _: False):
                try:
                    said = _POSITION.validate_json(message.value() or b"")
                except ValidationError as error:
                    log.error("position_unreadable", offset=message.offset(), why=error.errors()[0]["msg"])
                    continue
                found[Lane(said["site"], said["lane"])] = Position(
                    said["epoch"], said["sequence"], said["incarnation"]
                )
    return found


def message(lane: Lane, at: Position) -> Produced:
    """Makes the message that keeps a position."""
    said = SitePosition(
        site=lane.site,
        lane=lane.name,
        epoch=at.epoch,
        sequence=at.sequence,
        incarnation=at.incarnation,
    )
    return Produced(TOPIC, 0, f"{lane.site}/{lane.name}".encode(), orjson.dumps(said))
