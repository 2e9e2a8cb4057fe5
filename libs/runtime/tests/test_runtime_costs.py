"""Costs by pipeline and month."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from penstock.contracts.errors import Invalid
from penstock.contracts.events import Cost
from penstock.cost.v1.cost_pb2 import SumCostsRequest
from penstock.runtime import spent
from penstock.runtime.costs import summed

LATE = datetime(2026, 11, 1, 1, tzinfo=timezone(timedelta(hours=2)))  # still October in UTC
JOBS = [
    ("loans", datetime(2026, 11, 3, tzinfo=UTC), Cost(processor_s=1.5, peak_memory=7, bytes_read=2)),
    ("loans", datetime(2026, 11, 9, tzinfo=UTC), Cost(processor_s=2.25, peak_memory=5, gpu_s=1)),
    ("loans", LATE, Cost(processor_s=8)),
    ("fraud", datetime(2026, 11, 9, tzinfo=UTC), Cost(processor_s=4)),
]


@pytest.mark.parametrize(
    ("pipeline", "month", "expected"),
    [
        (
            "",
            "",
            [("2026-11", "loans", 2, 3.75), ("2026-11", "fraud", 1, 4.0), ("2026-10", "loans", 1, 8.0)],
        ),
        ("loans", "", [("2026-11", "loans", 2, 3.75), ("2026-10", "loans", 1, 8.0)]),
        ("", "2026-10", [("2026-10", "loans", 1, 8.0)]),
        ("fraud", "2026-10", []),
    ],
)
def test_costs_are_summed_by_pipeline_and_month(
    pipeline: str, month: str, expected: list[tuple[str, str, int, float]]
) -> None:
    found = summed(JOBS, SumCostsRequest(pipeline=pipeline, month=month)).months
    assert [(one.month, one.pipeline, one.jobs, one.cost.processor_s) for one in found] == expected


def test_peaks_are_not_added() -> None:
    cost = summed(JOBS, SumCostsRequest(pipeline="loans", month="2026-11")).months[0].cost
    assert (cost.peak_memory, cost.bytes_read, cost.gpu_s) == (7, 2, 1)


def test_what_is_no_month_is_refused() -> None:
    with pytest.raises(Invalid, match="`2026-13` is no month"):
        summed(JOBS, SumCostsRequest(month="2026-13"))


def test_each_gpu_is_counted_while_its_device_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By files in the place of `/dev/nvidia0` and `/dev/nvidia1`."""
    monkeypatch.setattr(spent, "_GPU", re.compile(rf"{tmp_path}/nvidia\d+"))
    files = [tmp_path / name for name in ("nvidia0", "nvidia1", "nvidia1", "nvidiactl", "nvidia-uvm")]
    began = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / 100

    def up() -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began

    with ExitStack() as opened:
        for file in files:
            opened.enter_context(file.open("w"))
        before, used, after = up(), spent.spent("self")["gpu_s"], up()
        assert 2 * before - 0.1 < used < 2 * after + 0.1
    assert spent.spent("self")["gpu_s"] == 0
