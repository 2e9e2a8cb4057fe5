"""Outcome of a publish: ingest's counts when it has read the events, and its rejects by kind."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from penstock.client.events import Events, Published
from penstock.client.judged import Rule, rule
from penstock.contracts.dataplane import Reject
from penstock.contracts.errors import NotFound, PenstockError, Refused, Unavailable
from penstock.ingest.v1 import ingest_pb2 as ingest

WITHIN_S = 60.0
"""Longest wait in which ingest reads nothing."""
_LOOK_S = 0.1


@dataclass(frozen=True)
class Example:
    """First reject of those that broke one rule of one field."""

    row: int  # of the file, from 1
    reject: Reject
    count: int = 1  # of such rejects


@dataclass(frozen=True)
class Outcome:
    """Outcome of the events that ingest read while these were published: theirs, and those `of_others`."""

    events: int
    records: int
    duplicates: int
    rejects: Mapping[str, int]
    of_others: int
    examples: tuple[Example, ...]
    """First reject by each `judged.rule`, the commonest first; none where this user may not read rejects."""

    @property
    def rejected(self) -> int:
        return sum(self.rejects.values())


def outcome(
    events: Events,
    pipeline: str,
    source: str,
    published: Published,
    before: ingest.GetCountsResponse,
    progress: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Waits until ingest has read what was published; `before`: its counts ahead of that. Raises
    Unavailable when it reads nothing for WITHIN_S.
    """
    after = _read(events, pipeline, source, published, progress)
    rejects = {
        reason: count - before.rejects.get(reason, 0)
        for reason, count in after.rejects.items()
        if count > before.rejects.get(reason, 0)
    }
    return Outcome(
        published.events,
        after.records - before.records,
        after.duplicates - before.duplicates,
        rejects,
        max(0, after.events - before.events - published.events),
        _examples(events, pipeline, source, published) if rejects else (),
    )


def so_far(events: Events, pipeline: str, source: str) -> ingest.GetCountsResponse:
    """Counts of the source now: none where ingest has not heard of it yet."""
    try:
        return events.counts(pipeline, source)
    except NotFound:
        return ingest.GetCountsResponse()


def waiting(counts: ingest.GetCountsResponse) -> int:
    """Events that ingest has not read yet."""
    return sum(partition.lag for partition in counts.partitions)


def _read(
    events: Events, pipeline: str, source: str, published: Published, progress: Callable[[int], None]
) -> ingest.GetCountsResponse:
    ends, why = {end.partition: end.offset for end in published.offsets}, ""
    left, deadline = sum(ends.values()), time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        try:
            counts, why = events.counts(pipeline, source), ""
        except PenstockError as error:  # it restarts, say, or is at work: the file is on Kafka all the same
            why = f" ({error.message})"
        else:
            positions = {one.partition: one.position for one in counts.partitions}
            now = sum(max(0, end - positions.get(number, 0)) for number, end in ends.items())
            progress(max(0, published.events - now))
            if not now:
                return counts
            if now < left:
                left, deadline = now, time.monotonic() + WITHIN_S
        time.sleep(_LOOK_S)  # ingest does not tell when it has read them
    raise Unavailable(
        f"all {published.events} events are on Kafka's disk, each acknowledged, but ingest has read none of"
        f" the last {left} for {WITHIN_S:.0f} s{why}",
        remedy=(
            "It goes on when it can: see `penstock status`, then `penstock rejects`. To publish the file"
            " again is safe: what ingest has read is a duplicate then"
        ),
    )


def _examples(events: Events, pipeline: str, source: str, published: Published) -> tuple[Example, ...]:
    found: dict[Rule, Example] = {}
    with suppress(Refused):
        for _, reject in events.rejects(pipeline, source):
            row = published.places.row(reject["partition"], reject["offset"])
            if not row:
                continue
            broken = rule(reject["reason"], reject["field"], reject["detail"])
            known = found.get(broken, Example(row, reject, 0))
            first = Example(row, reject) if row < known.row else known
            found[broken] = replace(first, count=known.count + 1)
    return tuple(sorted(found.values(), key=lambda one: -one.count))
