"""A batch in which Kafka refuses messages is taken whole but for these, in order."""

from __future__ import annotations

from confluent_kafka import KafkaError
from hypothesis import given
from hypothesis import strategies as st

from penstock.contracts.errors import Invalid
from penstock.runtime.kafka.transaction import MessageRefused
from penstock_edge_gateway.hub.forward.parts import Parts
from penstock_edge_gateway.hub.forward.write import Reached

TOO_LARGE = MessageRefused(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
NO_RIGHT = MessageRefused(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))


def committed(records: int, odd: set[int], together: int, why: MessageRefused) -> Parts:
    """Parts of a batch that Kafka takes up to `together` records of, and no odd one."""
    parts, at = Parts(records), 0
    while at < records:
        part = range(at, min(at + (1 if parts.odd else parts.records), records))
        if not parts.odd and (len(part) > together or odd & {*part}):
            if not parts.refused(why):
                break
            continue
        parts.taken(Reached(part[-1] + 1, {at + 1: Invalid("odd")} if parts.odd else {}))
        at += len(part)
    return parts


@given(st.integers(1, 200), st.sets(st.integers(0, 199), max_size=4), st.integers(1, 200))
def test_all_are_taken_and_the_odd_ones_put_aside(records: int, odd: set[int], together: int) -> None:
    reached = committed(records, odd, together, TOO_LARGE).reached
    assert reached
    assert (reached.sequence, {*reached.rejected}) == (records, {one + 1 for one in odd if one < records})


def test_what_a_right_is_missing_for_is_waited_for_and_what_is_before_it_is_not() -> None:
    assert committed(9, {0}, 9, NO_RIGHT).reached is None
    assert committed(9, {5}, 9, NO_RIGHT).reached == Reached(5, {})


def test_a_letter_that_is_refused_is_no_way_out() -> None:
    parts = Parts(1)
    assert parts.refused(TOO_LARGE)
    assert parts.odd
    assert not parts.refused(TOO_LARGE)
