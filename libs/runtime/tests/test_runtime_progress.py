"""When a consumer is taken for broken, look by look."""

from __future__ import annotations

from penstock.runtime.progress import Position, Progress


def at(offset: int, lag: int, partition: int = 0) -> Position:
    return Position("t", partition, offset, lag)


def test_it_stands_still_when_messages_wait_and_none_is_taken() -> None:
    progress = Progress(60)
    assert progress.look([at(5, 2)], busy=False, now=0) == []
    assert progress.look([at(5, 3)], busy=False, now=60) == []
    assert progress.look([at(5, 4)], busy=False, now=61) == [at(5, 4)]


def test_it_does_not_where_it_takes_one_or_none_waits_or_it_is_busy() -> None:
    for position, busy in [(at(6, 2), False), (at(5, 0), False), (at(5, 2), True)]:
        progress = Progress(60)
        progress.look([at(5, 2)], busy=False, now=0)
        assert progress.look([position], busy=busy, now=50) == []
        assert progress.look([position, at(0, 0, partition=1)], busy=False, now=110) == []


def test_one_partition_may_stand_still_alone() -> None:
    progress = Progress(60)
    progress.look([at(5, 2, partition=0), at(5, 2, partition=1)], busy=False, now=0)
    assert progress.look([at(6, 2, partition=0), at(5, 2, partition=1)], busy=False, now=61) == [at(5, 2, partition=1)]


def test_after_kafka_was_away_it_has_its_time_anew() -> None:
    progress = Progress(60)
    progress.look([at(5, 2)], busy=False, now=0)
    progress.look([], busy=False, now=30)
    assert progress.look([at(5, 2)], busy=False, now=300) == []
    assert progress.look([at(5, 2)], busy=False, now=361) == [at(5, 2)]
