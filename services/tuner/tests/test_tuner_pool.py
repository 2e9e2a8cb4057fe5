from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trial_pool_suite import (
    HANGS,
    LEAVES,
    MODULE,
    TrialPoolSuite,
    ended,
    gone,
    lend,
    parent,
    started,
    workbench,
)

from penstock.contracts.errors import Kind
from penstock.runtime.child import LONGEST_TEXT
from penstock.testing import lending
from penstock.testing.wait import until
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

    def again() -> object:
        pool.start(0, lend(1))
        return ended(pool, 0)[0].measured

    until(again, what="another server copies a trial: one that is still dying may take an order, too")


def test_what_a_trial_prints_fits_into_its_reason() -> None:
    trial = TrialProcess(0)
    os.write(trial.errors.writer, b"a\0b" + b"x" * 20_000 + b"\n")
    trial.follow()
    assert [*trial.last_lines] == ["a\ufffdb" + "x" * (LONGEST_TEXT - 3)]
    for pipe in trial.pipes:
        pipe.close_writer()
    trial.close()


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
    try:
        pid, left = started(work, LEAVES), started(work, LEAVES, "fork")
        server = parent(pid)
    finally:
        driver.kill()
        driver.wait()

    assert gone(pid)
    assert gone(server)
    ProcessPool(work).close()  # the next attempt's
    assert gone(left)


STUDY = """
import subprocess, sys, time
from contextlib import suppress
from pathlib import Path
from penstock.contracts.errors import PenstockError
from penstock.testing import lending
from penstock_tuner.driver import Driver
from penstock_tuner.pool.processes import ProcessPool
from penstock_tuner.trials.workbench import Workbench

parts, folder = map(Path, sys.argv[1:])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
spec = lending.spec(
    model={"type": "boosted_trees"},
    trainer={"epochs": 2},
    tuner={"budget": {"trials": 2}, "space": {"model": {"boosted_trees": {"num_leaves": [4, 5]}}}},
)
work = Workbench(folder=folder / "study")
work.fill(parts / "train.parquet", parts / "validation.parquet", lending.pipeline(), 1)
pool, filler = ProcessPool(work), folder / "filler"

def study():
    try:
        print(Driver(spec, 400, (), pool, lambda told: None, began=time.monotonic(), looks=1).run()["best"])
    except PenstockError as error:
        print(error)

with filler.open("wb", buffering=0) as file, suppress(OSError):
    while True:
        file.write(bytes(4096))
study()
filler.unlink()
study()
pool.close()
"""


def test_a_study_on_a_full_disk_fails_with_a_sentence_and_another_finds_the_room(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounts = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*mounts, "mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("this machine lets no test mount a file system")
    for name, rows in (("train", 400), ("validation", 100)):
        lending.write_part(tmp_path / f"{name}.parquet", lending.applications(name, rows))
    done = subprocess.run(
        [*mounts, sys.executable, "-c", STUDY, tmp_path, folder], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    full, room = done.stdout.splitlines()
    assert "none of 2 trials ended well; the last failure: " in full
    assert "the disk is full" in full
    assert room in ("0", "1")
