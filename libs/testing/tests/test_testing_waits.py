"""Tests poll to a deadline. A line that sleeps all the same says why."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from penstock.testing.wait import until, until_async

ROOT = Path(__file__).resolve().parents[3]
SLEEPS = re.compile(r"\b(?:time|asyncio)\.sleep\((?!.*#)")
POLLING = {"libs/testing/penstock/testing/wait.py"}


def test_a_line_of_a_test_that_sleeps_says_why() -> None:
    patterns = ["tests/*.py", "libs/testing/*.py", "*/tests/*.py"]
    listed = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert len(listed) > 100
    unexplained = [
        f"{name}:{number}"
        for name in listed
        if name not in POLLING and name != Path(__file__).relative_to(ROOT).as_posix()
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1)
        if SLEEPS.search(line)
    ]
    assert unexplained == []


def test_a_sleep_without_a_reason_is_found() -> None:
    assert SLEEPS.search("    time.sleep(0.5)")
    assert SLEEPS.search("    await asyncio.sleep(1)")
    assert not SLEEPS.search("    time.sleep(pause)  # the pace of publishing")


def test_what_does_not_happen_is_named_with_the_last_answer() -> None:
    with pytest.raises(TimeoutError, match=r"not within 0 s: the moon rises \(last: 0\)"):
        until(lambda: 0, within=0.05, what="the moon rises")


def test_an_answer_is_what_a_test_accepts() -> None:
    answers = iter([["late"], KeyError("a"), []])

    def look() -> list[str]:
        if isinstance(answer := next(answers), KeyError):
            raise answer
        return answer

    assert until(look, accept=lambda late: not late, despite=KeyError, within=5, what="none is late") == []


async def test_so_it_is_on_an_event_loop_which_an_expected_error_does_not_end() -> None:
    answers = iter([KeyError("a"), 0, "risen"])

    def look() -> object:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert await until_async(look, despite=KeyError) == "risen"
    with pytest.raises(TimeoutError, match=r"not within 0 s: the moon rises \(last: KeyError"):
        await until_async(lambda: {}["moon"], within=0.05, what="the moon rises", despite=KeyError)
    with pytest.raises(KeyError):
        await until_async(lambda: {}["moon"])
