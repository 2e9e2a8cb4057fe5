"""How far each lane was forwarded, in `edge-positions.v1`: compacted, a message a lane.

Kafka forgets a consumer group's offsets after a week without a commit, and a site may be away for
longer: so a position is a message, in the transaction of what it counts.
"""

from __future__ import annotations

from typing import Final

import orjson

from penstock.contracts.dataplane import SitePosition
from penstock.runtime.kafka.messages import Partition, Produced
from penstock.runtime.kafka.reading import Reader
from penstock.runtime.settings import KafkaSettings
from penstock_edge_gateway.hub.forward.lanes import Lane, Position

TOPIC: Final = "edge-positions.v1"
_AT_ONCE: Final = 10_000  # messages in memory at a time


def read(kafka: KafkaSettings, group: str) -> dict[Lane, Position]:
    """Reads them all. Whoever may still add to them must be fenced before. Blocks; raises Unavailable."""
    found: dict[Lane, Position] = {}
    where = Partition(TOPIC, 0)
    with Reader(kafka, group) as reader:
        low, end = reader.ends(where)
        for start in range(low, end, _AT_ONCE):
            for message in reader.span(where, start, min(start + _AT_ONCE, end), lambda _: False):
                said: SitePosition = orjson.loads(message.value() or b"")
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
