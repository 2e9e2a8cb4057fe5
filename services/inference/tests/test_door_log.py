"""The log is read once and in order, through rotation, torn lines and restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock_inference.door.door import Backends, Door
from penstock_inference.record.spool import Position, Tail, ensure_private, log_files, mended, rotate


@pytest.fixture
def door(tmp_path: Path) -> Door:
    door = Door(
        tmp_path, "127.0.0.1:1", "127.0.0.1:2", Backends("127.0.0.1:3", "127.0.0.1:4", "127.0.0.1:5"), {}
    )
    door.logs.mkdir()
    return door


def tail_of(door: Door, position: Position | None = None) -> Tail:
    return Tail(door.logs, position, leave_after_s=0)


def write(path: Path, *lines: str, end: str = "\n") -> None:
    with path.open("a") as opened:
        opened.write("\n".join(lines) + end)


def read_all(tail: Tail) -> list[str]:
    found: list[str] = []
    while lines := tail.read():
        found += [line.decode() for line in lines.lines]
    return found


def test_whole_lines_only(door: Door) -> None:
    tail = tail_of(door)
    assert tail.read() is None
    write(door.log, "a", "b", "half", end="")
    assert read_all(tail) == ["a", "b"]
    write(door.log, " a line")
    assert read_all(tail) == ["half a line"]
    assert tail.backlog_bytes() == 0


def test_goes_on_from_its_position_after_the_file_got_another_name(door: Door) -> None:
    write(door.log, "a", "b")
    first = tail_of(door).read()
    assert first
    write(door.log, "c")
    rotate(door)
    write(door.log, "d")
    tail = tail_of(door, first.position)
    assert tail.backlog_bytes() == 4
    assert read_all(tail) == ["c", "d"]


def test_a_renamed_file_is_read_to_its_end_before_the_next(door: Door) -> None:
    write(door.log, "a")
    tail = tail_of(door)
    assert read_all(tail) == ["a"]
    aside = rotate(door)
    assert read_all(tail) == []
    write(aside, "b")  # opened before the renaming
    assert read_all(tail) == ["b"]
    write(aside, "c")
    write(door.log, "d")
    assert read_all(tail) == ["c", "d"]
    assert tail.rotated() == [aside]


def test_empty_files_between_are_passed_over(door: Door) -> None:
    write(door.log, "a")
    rotate(door)
    rotate(door)
    tail = tail_of(door)
    assert read_all(tail) == ["a"]
    write(door.log, "b")
    assert read_all(tail) == ["b"]


def test_a_torn_last_line_is_given_up_when_the_next_file_begins(door: Door) -> None:
    write(door.log, "a", '{"grpc_status":0,"id', end="")
    rotate(door)
    write(door.log, "b")
    assert read_all(tail_of(door)) == ["a", "b"]


def test_a_torn_line_does_not_take_the_next_one_with_it() -> None:
    whole = b'{"grpc_status":0,"id":"x","path":"{\\"grpc_status\\":1"}'
    assert mended(whole) == whole
    assert mended(b'{"grpc_status":0,"id":"to' + whole) == whole


def test_a_position_whose_file_is_gone_goes_on_with_the_oldest(door: Door) -> None:
    write(door.log, "a")
    assert read_all(tail_of(door, Position("0" * 32, 17))) == ["a"]


def test_a_very_long_line(door: Door) -> None:
    write(door.log, "x" * 9_000_000, "b")
    assert [len(line) for line in read_all(tail_of(door))] == [9_000_000, 1]


def test_the_log_is_its_owners_alone(door: Door) -> None:
    ensure_private(door)
    rotate(door)
    assert [path.stat().st_mode & 0o777 for path in log_files(door.logs)] == [0o600, 0o600]
    door.log.chmod(0o644)
    ensure_private(door)
    assert door.log.stat().st_mode & 0o777 == 0o600
