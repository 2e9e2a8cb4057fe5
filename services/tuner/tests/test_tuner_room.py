"""Trials at once on this machine: by its cores, and by what its control groups allow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock_tuner.pool import room

CORES = len(os.sched_getaffinity(0))


def bounds(folder: Path, **of: str) -> Path:
    """Control groups below `folder`, `a` and in it `b`, with what their `memory.max` says."""
    (folder / "a" / "b").mkdir(parents=True)
    for name, place in (("a", "a"), ("b", "a/b")):
        if name in of:
            (folder / place / "memory.max").write_text(of[name])
    own = folder / "cgroup"
    own.write_text("0::/a/b\n")
    return own


@pytest.mark.parametrize(
    ("of", "limit"),
    [({}, None), ({"b": "max\n"}, None), ({"a": "4000\n", "b": "max\n"}, 4000), ({"a": "9", "b": "7"}, 7)],
)
def test_the_least_bound_of_a_group_and_those_above_it_counts(
    of: dict[str, str], limit: int | None, tmp_path: Path
) -> None:
    assert room.memory_limit(tmp_path, bounds(tmp_path, **of)) == limit


def test_a_machine_without_control_groups_has_no_bound(tmp_path: Path) -> None:
    assert room.memory_limit(tmp_path, tmp_path / "none") is None


@pytest.mark.parametrize(
    ("limit", "memory", "studies", "trials"),
    [
        (None, None, 2, CORES),
        (1 << 40, None, 2, CORES),
        (1_600_000_000, 1_000_000_000, 1, 1),
        (600_000_000, None, 2, 1),
    ],
)
def test_trials_have_a_core_and_their_share_of_the_memory(
    limit: int | None, memory: int | None, studies: int, trials: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "memory_limit", lambda: limit)
    assert room.trials_at_once(memory, studies) == trials
