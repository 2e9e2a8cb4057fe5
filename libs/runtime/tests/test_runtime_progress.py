"""When a consumer is taken for broken, and when a group is formed anew, look by look."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.runtime.kafka.assignment import Assignment
from penstock.runtime.kafka.progress import Position, Progress
from penstock.runtime.settings import KafkaSettings


def at(offset: int, lag: int, partition: int = 0) -> Position:
    return Position("t", partition, offset, lag)


def looks(progress: Progress, *held: Position, times: int = 1, busy: bool = False) -> list[Position]:
    return [progress.look(held, busy=busy) for _ in range(times)][-1]


def test_it_stands_still_when_messages_wait_and_none_is_taken() -> None:
    progress = Progress(looks=4)
    assert looks(progress, at(5, 2), times=4) == []
    assert looks(progress, at(5, 3)) == [at(5, 3)]


@pytest.mark.parametrize(("position", "busy"), [(at(6, 2), False), (at(5, 0), False), (at(5, 2), True)])
def test_it_does_not_where_it_takes_one_or_none_waits_or_it_is_busy(position: Position, busy: bool) -> None:
    progress = Progress(looks=4)
    looks(progress, at(5, 2), times=4)
    assert looks(progress, position, busy=busy) == []
    still = at(position.offset, 2)
    assert looks(progress, still, times=3) == []
    assert looks(progress, still) == [still]


def test_beside_others_that_go_on_it_has_ten_times_as_long() -> None:
    progress = Progress(looks=4)
    still = at(5, 2, partition=1)
    needed = next(number for number in range(100) if looks(progress, at(number, 9), still) == [still])
    assert 39 <= needed <= 41


def test_after_kafka_was_away_it_has_its_time_anew() -> None:
    progress = Progress(looks=4)
    looks(progress, at(5, 2), times=4)
    looks(progress)
    assert looks(progress, at(5, 2), times=4) == []
    assert looks(progress, at(5, 2)) == [at(5, 2)]


def test_a_group_is_formed_anew_at_the_second_look_and_then_more_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: list[set[str] | None] = []

    def left_out(*_: Any) -> set[str] | None:
        return answers.pop(0)

    monkeypatch.setattr("penstock.runtime.kafka.assignment.left_out", left_out)
    assignment = Assignment(KafkaSettings(), "g")

    def seen(*found: set[str] | None) -> list[list[str]]:
        answers.extend(found)
        return [assignment.look(["t"]) for _ in found]

    assert seen({"t/0"}, set(), {"t/0"}, None, {"t/1"}) == [[]] * 5  # new, or not to be told
    assert seen({"t/1"}) == [["t/1"]]
    assert seen(*[{"t/1"}] * 4) == [[], [], [], ["t/1"]]
    assert seen(set(), {"t/1"}, {"t/1"}) == [[], [], ["t/1"]]
