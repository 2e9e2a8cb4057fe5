"""The log is rotated and removed, and nothing goes that is not published."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from penstock_inference.door.door import Backends, Door
from penstock_inference.record.spool import Housekeeping, Position, Tail, log_files
from penstock_inference.settings import Settings

NEVER = timedelta(days=1)
AT_ONCE = timedelta(0)


@pytest.fixture
def door(tmp_path: Path) -> Door:
    door = Door(
        tmp_path, "127.0.0.1:1", "127.0.0.1:2", Backends("127.0.0.1:3", "127.0.0.1:4", "127.0.0.1:5"), {}
    )
    door.logs.mkdir()
    return door


def tidy(
    door: Door,
    tail: Tail,
    committed: Position | None,
    *,
    rotate_bytes: int = 1 << 20,
    keep: timedelta = AT_ONCE,
) -> None:
    """Once, whenever the last time was."""
    Housekeeping(door, rotate_bytes, NEVER, keep)(tail, committed)


def test_a_large_file_is_put_aside_and_goes_once_it_is_published(door: Door) -> None:
    door.log.write_text("a\nb\n")
    tail = Tail(door.logs, None, leave_after_s=0)
    tidy(door, tail, None, rotate_bytes=4)
    assert [path.name == "predictions.log" for path in log_files(door.logs)] == [False, True]
    assert door.log.stat().st_mode & 0o777 == 0o600
    lines = tail.read()
    assert lines
    tidy(door, tail, None)
    assert len(log_files(door.logs)) == 2  # read, not published
    tidy(door, tail, lines.position, keep=NEVER)
    assert len(log_files(door.logs)) == 2  # published, and kept for a while
    tidy(door, tail, lines.position)
    assert log_files(door.logs) == [door.log]


def test_a_file_that_is_only_half_published_stays(door: Door) -> None:
    door.log.write_text("a\n")
    tail = Tail(door.logs, None, leave_after_s=0)
    lines = tail.read()
    assert lines
    with door.log.open("a") as opened:
        opened.write("b\n")
    tidy(door, tail, lines.position, rotate_bytes=4)
    tidy(door, tail, lines.position)
    assert len(log_files(door.logs)) == 2


def test_after_its_last_file_was_removed_the_tail_goes_on(door: Door) -> None:
    door.log.write_text("a\n")
    tail = Tail(door.logs, None, leave_after_s=0)
    lines = tail.read()
    assert lines
    tidy(door, tail, lines.position, rotate_bytes=1)
    tidy(door, tail, lines.position)
    assert log_files(door.logs) == [door.log]
    with door.log.open("a") as opened:
        opened.write("b\n")
    found = tail.read()
    assert found
    assert found.lines == [b"b"]


def test_a_log_that_is_a_link_is_left_alone(door: Door, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("not ours\n")
    elsewhere.chmod(0o644)
    door.log.symlink_to(elsewhere)
    tidy(door, Tail(door.logs, None), None)
    assert elsewhere.stat().st_mode & 0o777 == 0o644
    assert log_files(door.logs) == []


def test_settings_say_times_as_people_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path))
    monkeypatch.setenv("PENSTOCK_INFERENCE__LOG_ROTATE_AFTER", "90m")
    monkeypatch.setenv("PENSTOCK_INFERENCE__PORT", "9999")
    settings = Settings()
    assert settings.log_rotate_after == timedelta(minutes=90)
    assert settings.door.services["inference"] == "127.0.0.1:9999"
    assert settings.repository == tmp_path / "triton" / "models"
