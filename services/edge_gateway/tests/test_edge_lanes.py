"""Lanes: whatever is sent again, too early, or cut off, each record is new once and in order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.contracts.errors import Invalid, NotFound, Refused, TooLarge, Unavailable
from penstock.edge_gateway.v1.hub_pb2 import Forwarded, ForwardRequest, Gap, SpooledEvent
from penstock.runtime.kafka.messages import BY_KEY, Produced
from penstock_edge_gateway.hub.forward import positions
from penstock_edge_gateway.hub.forward.lanes import (
    BATCH_BYTES,
    BATCH_RECORDS,
    LAST,
    Batch,
    Lane,
    Position,
    batch_of,
    rest_of,
)
from penstock_edge_gateway.hub.forward.write import Write

LANE = Lane("branch-1", "events")
EVENT = Forwarded(event=SpooledEvent(pipeline="loans", source="people", event=b"{}"))


def gap(records: int) -> Forwarded:
    return Forwarded(gap=Gap(records=records, reason=Gap.REASON_SPOOL_FULL))


def batch(first: int, *records: Forwarded, epoch: str = "a", incarnation: int = 1) -> Batch:
    return Batch(LANE, incarnation, epoch, first, records)


def spans(spooled: list[int]) -> list[tuple[int, Forwarded]]:
    """The records of a spool with their sequences: 1 is an event, more a gap of as many."""
    numbered, following = [], 1
    for size in spooled:
        numbered.append((following, EVENT if size == 1 else gap(size)))
        following += size
    return numbered


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 11), st.integers(1, 12)), max_size=30),
)
def test_any_order_of_batches_writes_each_sequence_once_and_in_order(
    spooled: list[int], sent: list[tuple[int, int]]
) -> None:
    lane, known, written = spans(spooled), None, []
    for start, count in [*sent, *((at, 1) for at in range(len(lane)))]:
        if part := lane[start : start + count]:
            rest = rest_of(batch(part[0][0], *(record for _, record in part)), known)
            for sequence, record in rest.records:
                written += range(sequence, sequence + max(record.gap.records, 1))
            known = rest.position
    assert written == [*range(1, sum(spooled) + 1)]
    assert known == Position("a", sum(spooled), 1)


def test_a_gap_is_cut_to_what_is_new_of_it() -> None:
    rest = rest_of(batch(4, gap(5), EVENT), Position("a", 6, 1))
    assert [(sequence, record.gap.records) for sequence, record in rest.records] == [(7, 2), (9, 0)]
    assert rest.position.sequence == 9


def test_a_batch_beyond_the_next_sequence_writes_nothing_and_tells_where_the_lane_stands() -> None:
    rest = rest_of(batch(9, EVENT), Position("a", 6, 1))
    assert (rest.records, rest.position.sequence) == ([], 6)


def test_the_first_records_that_are_new_may_be_taken_alone() -> None:
    rest = rest_of(batch(5, EVENT, gap(3), EVENT, EVENT), Position("a", 5, 1), most=2)
    assert [(sequence, record.gap.records) for sequence, record in rest.records] == [(6, 3), (9, 0)]
    assert rest.position.sequence == 9


def test_what_has_to_wait_holds_up_what_is_behind_it_alone() -> None:
    def translate(_: str, record: Forwarded) -> Produced:
        match record.event.pipeline:
            case "new":
                raise Unavailable("no topic yet")
            case "gone":
                raise NotFound("deleted")
        return Produced("t", BY_KEY, None, b"")

    records = [
        Forwarded(event=SpooledEvent(pipeline=name)) for name in ("loans", "gone", "new", "loans", "gone")
    ]
    write = Write({}, translate)
    reached = write.add(batch(1, *records))
    assert (reached.sequence, [*reached.rejected]) == (2, [2])
    assert write.positions == {LANE: Position("a", 2, 1)}
    assert [one.topic for one in write.messages][::2] == ["t", positions.TOPIC]
    with pytest.raises(Unavailable):
        write.add(batch(3, *records[2:]))


def test_another_epoch_begins_at_one() -> None:
    known = Position("a", 6, 1)
    assert rest_of(batch(7, EVENT, epoch="b"), known).position.sequence == 0
    assert rest_of(batch(1, EVENT, epoch="b"), known).position == Position("b", 1, 1)


def test_an_older_start_of_the_site_is_refused() -> None:
    with pytest.raises(Refused, match="start 1 of this site was followed by start 2"):
        rest_of(batch(7, EVENT, incarnation=1), Position("a", 6, 2))


def test_a_batch_that_would_hold_up_the_others_is_too_large() -> None:
    large = Forwarded(event=SpooledEvent(event=b"x" * (BATCH_BYTES // 4)))
    with pytest.raises(TooLarge, match="at most 4194304 at once"):
        batch_of("branch-1", ForwardRequest(lane="events", epoch="a", first=1, records=[large] * 4))
    many = [Forwarded()] * (BATCH_RECORDS + 1)
    with pytest.raises(TooLarge, match="at most 10000 at once"):
        batch_of("branch-1", ForwardRequest(lane="events", epoch="a", first=1, records=many))


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (ForwardRequest(lane="other", epoch="a", first=1), "no lane `other`"),
        (ForwardRequest(lane="events", first=1), "names its epoch"),
        (ForwardRequest(lane="events", epoch="a"), "first sequence from 1 on"),
        (ForwardRequest(lane="events", epoch="a", first=1, records=[gap(0)]), "a gap of no records"),
        (ForwardRequest(lane="events", epoch="a" * 65, first=1), "at most 64 characters"),
        (ForwardRequest(lane="events", epoch="a", first=LAST, records=[EVENT] * 2), "sequences end at"),
        (ForwardRequest(lane="events", epoch="a", first=1, records=[gap(2**64 - 1)] * 2), "sequences end at"),
    ],
)
def test_a_batch_that_no_position_counts_is_invalid(request_: ForwardRequest, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        batch_of("branch-1", request_)
