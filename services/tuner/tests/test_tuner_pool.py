from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trial_pool_suite import HANGS, LEAVES, MODULE, TrialPoolSuite, ended, gone, lend, started, workbench

from penstock.contracts.errors import Kind
from penstock.runtime.child import LONGEST_TEXT
from penstock_tuner.pool.process import TrialProcess
from penstock_tuner.pool.processes import ProcessPool
from penstock_tuner.trials.workbench import Workbench

pytestmark = pytest.mark.process


@pytest.fixture
def work(tmp_path: Path) -> Workbench:
    return workbench(tmp_path)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Any]:
    (tmp_path / "odd_trial.py").write_text(MODULE)
    pools: list[ProcessPool] = []

    def opened(work: Workbench, **bounds: Any) -> ProcessPool:
        pools.append(
            ProcessPool(work, module="odd_trial", environment={"PYTHONPATH": str(tmp_path)}, **bounds)
        )
        return pools[-1]

    yield opened
    for pool in pools:
        pool.close()


class TestProcesses(TrialPoolSuite):
    """The pool of processes on this machine."""


def test_the_death_of_the_fork_server_is_told_and_another_takes_its_place(
    opened: Any, work: Workbench
) -> None:
    pool = opened(work)
    pool.start(0, lend(HANGS))
    pid = started(work, HANGS)

    os.kill(parent(pid), signal.SIGKILL)

    failure = ended(pool, 0)[0].failure
    assert failure is not None
    assert failure.kind is Kind.UNAVAILABLE, "no fault of the trial's own: it may be begun again"
    assert gone(pid)
    pool.start(0, lend(1))
    assert ended(pool, 0)[0].measured is not None


def test_what_a_trial_prints_fits_into_its_reason() -> None:
    trial = TrialProcess(0)
    os.write(trial.errors.writer, b"a\0b" + b"x" * 20_000 + b"\n")
    trial.follow()
    assert [*trial.last_lines] == ["a\ufffdb" + "x" * (LONGEST_TEXT - 3)]
    for pipe in trial.pipes:
        pipe.close_writer()
    trial.close()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


DRIVER = """
import sys, time
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.errors import Kind
from penstock_tuner.pool.processes import ProcessPool
from penstock_tuner.trials.workbench import Workbench

pool = ProcessPool(Workbench.model_validate_json(sys.argv[1]), module="odd_trial")
pool.start(0, Pipeline.model_validate_json(sys.argv[2]))
while True:
    pool.wait(1.0)
"""


def test_no_process_outlives_a_driver_that_was_killed(work: Workbench, tmp_path: Path) -> None:
    (tmp_path / "odd_trial.py").write_text(MODULE)
    driver = subprocess.Popen(
        [
            sys.executable,
            "-c",
            DRIVER,
            work.model_dump_json(),
            lend(LEAVES).model_dump_json(exclude_unset=True, by_alias=True),
        ],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    pid, left = started(work, LEAVES), started(work, LEAVES, "fork")
    server = parent(pid)

    driver.send_signal(signal.SIGKILL)
    driver.wait()

    assert gone(pid)
    assert gone(server)
    ProcessPool(work).close()  # the next attempt's
    assert gone(left)
