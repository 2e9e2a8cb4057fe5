"""Lanes of sites: how far each was forwarded, and what of a batch is new. Pure.

Sequences of a lane begin at 1 and have no holes. A record has one, a gap as many as records that it
stands for. Another epoch is another spool: its sequences begin at 1 again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from penstock.contracts.errors import Invalid, Refused, TooLarge
from penstock.edge_gateway.v1.hub_pb2 import Forwarded, ForwardRequest, Gap

LANES: Final = ("events", "predictions")
BATCH_BYTES: Final = 4 << 20
BATCH_RECORDS: Final = 10_000
EPOCH_CHARACTERS: Final = 64
LAST: Final = 2**63 - 1  # sequence


class Lane(NamedTuple):
    site: str
    name: str


class Position(NamedTuple):
    """Everything up to `sequence` stands in the topics."""

    epoch: str
    sequence: int
    incarnation: int  # of the site, as the last batch bore it


class Numbered(NamedTuple):
    sequence: int
    record: Forwarded


@dataclass(frozen=True)
class Batch:
    lane: Lane
    incarnation: int
    epoch: str
    first: int
    records: Sequence[Forwarded]
    # Entities that the site has still to erase, each with its pipeline, as a Kafka key.
    erased: frozenset[tuple[str, bytes]] = frozenset()


@dataclass(frozen=True)
class Rest:
    """New records of a batch, and the lane's position once they are written."""

    records: Sequence[Numbered]
    position: Position


def batch_of(site: str, request: ForwardRequest, erased: frozenset[tuple[str, bytes]] = frozenset()) -> Batch:
    """Raises Invalid for a lane that does not exist, and for records that no sequence counts; TooLarge for
    more than one transaction should hold. What a site says of itself is bounded here: a position that
    no message holds would end the session of all.
    """
    if (size := request.ByteSize()) > BATCH_BYTES:
        raise TooLarge(f"a batch of {size} bytes", remedy=f"Send at most {BATCH_BYTES} at once")
    if (count := len(request.records)) > BATCH_RECORDS:
        raise TooLarge(f"a batch of {count} records", remedy=f"Send at most {BATCH_RECORDS} at once")
    if request.lane not in LANES:
        raise Invalid(f"no lane `{request.lane}`", where="lane", remedy=f"Lanes: {', '.join(LANES)}")
    if not request.epoch or not request.first:
        raise Invalid("a batch names its epoch, and its first sequence from 1 on", where="first")
    if len(request.epoch) > EPOCH_CHARACTERS:
        raise Invalid(f"an epoch has at most {EPOCH_CHARACTERS} characters", where="epoch")
    if any(one.WhichOneof("what") == "gap" and not one.gap.records for one in request.records):
        raise Invalid("a gap of no records", where="records")
    if request.first - 1 + sum(map(_span, request.records)) > LAST:
        raise Invalid(f"sequences end at {LAST}", where="records")
    lane = Lane(site, request.lane)
    return Batch(lane, request.incarnation, request.epoch, request.first, request.records, erased)


def rest_of(batch: Batch, known: Position | None, most: int = BATCH_RECORDS) -> Rest:
    """Takes from a batch what is behind the lane's position, the first `most` records of it. Nothing
    where it begins later than the next sequence: what is between must come first.

    Raises Refused for a batch of an older incarnation than the position's: another process has the
    site's name and key since.
    """
    if known and batch.incarnation < known.incarnation:
        raise superseded(batch.incarnation, known.incarnation)
    at = known.sequence if known and known.epoch == batch.epoch else 0
    new: list[Numbered] = []
    if batch.first <= at + 1:
        following = batch.first
        for record in batch.records:
            sequence, following = following, following + _span(record)
            if following > at + 1 and len(new) < most:
                new.append(_cut(Numbered(sequence, record), at + 1))
                at = following - 1
    return Rest(new, Position(batch.epoch, at, batch.incarnation))


def superseded(incarnation: int, newest: int) -> Refused:
    """Makes the error for a call of a site that another process, with its name and key, came after."""
    return Refused(
        f"start {incarnation} of this site was followed by start {newest}, with the same key elsewhere",
        remedy="One site has one disk: enroll a copy under a name of its own",
    )


def _span(record: Forwarded) -> int:
    return record.gap.records if record.WhichOneof("what") == "gap" else 1


def _cut(one: Numbered, start: int) -> Numbered:
    """Leaves out of a gap what is before `start`."""
    if one.sequence >= start:
        return one
    gap = one.record.gap
    left = Gap(records=one.sequence + gap.records - start, reason=gap.reason)
    return Numbered(start, Forwarded(gap=left))
