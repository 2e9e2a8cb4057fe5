"""Behaviour of every `TrialPool`, whatever runs its trials."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

import pytest

from penstock.contracts.errors import Conflict
from penstock.contracts.pipeline import Pipeline
from penstock.modelkit.build import build
from penstock.runtime.marked import lives
from penstock.testing import lending
from penstock.testing.wait import until
from penstock_tuner.pool.port import Ended, Reported, TrialPool
from penstock_tuner.trials.workbench import Workbench

RUNS_WITHIN_S = 240.0  # one process after the other loads torch first
LIMIT_S = 60.0
EPOCHS = 3
MEMORY = 600_000_000
DIVERGING = {
    "epochs": 20,
    "gradient_clip": None,
    "optimizer": {"type": "sgd", "learning_rate": 10, "momentum": 0.99},
}

# Seeds of trials that do not do as they should.
HANGS, DIES, FORKS, ALLOCATES, BREAKS, LEAVES = range(9001, 9007)
MODULE = f"""
import os, time
from pathlib import Path
from penstock_tuner.pool import child

measure = child.measure

def odd(pipeline, work, **told):
    seed = pipeline.training.seed
    Path(work.folder, f"{{seed}}.pid").write_text(str(os.getpid()))
    if seed == {DIES}:
        print("now I die", flush=True)
        os.kill(os.getpid(), 9)
    if seed in ({FORKS}, {LEAVES}) and os.fork() == 0:
        Path(work.folder, f"{{seed}}.fork").write_text(str(os.getpid()))
        time.sleep(3600)  # until it is ended
    if seed in ({HANGS}, {LEAVES}):
        time.sleep(3600)  # until it is ended
    if seed == {ALLOCATES}:
        held = b"x" * {MEMORY}
        time.sleep(3600)  # until it is ended
    if seed == {BREAKS}:
        raise RuntimeError("a bug")
    return measure(pipeline, work, **told)

child.measure = odd
child.main()
"""


def lend(seed: int = 1, **sections: Any) -> Pipeline:
    usual = {"model": {"type": "boosted_trees", "num_leaves": 7}, "trainer": {"epochs": EPOCHS}}
    return lending.pipeline(training={"seed": seed}, **usual | sections)


def workbench(folder: Path) -> Workbench:
    parts = [
        lending.write_part(folder / f"{name}.parquet", lending.applications(name, rows))
        for name, rows in (("train", 400), ("validation", 100))
    ]
    work = Workbench(folder=folder / "study")
    work.fill(parts[0], parts[1], lend(), 1)
    return work


class Open(Protocol):
    """Opens a pool whose trials run MODULE; the test closes it."""

    def __call__(self, work: Workbench, **bounds: Any) -> TrialPool: ...


def ended(pool: TrialPool, *numbers: int) -> dict[int, Ended]:
    """Ends of these trials."""
    found: dict[int, Ended] = {}
    deadline = time.monotonic() + LIMIT_S
    while not found.keys() >= set(numbers):
        assert time.monotonic() < deadline, f"of {numbers} only {sorted(found)} ended in {LIMIT_S} s"
        found |= {told.number: told for told in pool.wait(1.0) if isinstance(told, Ended)}
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def started(work: Workbench, seed: int, kind: str = "pid") -> int:
    """The pid that a trial has written."""
    file = work.folder / f"{seed}.{kind}"
    written = f"{file.name} is written"
    return int(until(lambda: file.exists() and file.read_text(), within=RUNS_WITHIN_S, what=written))


def gone(pid: int) -> bool:
    return until(lambda: not lives(pid), within=10, what=f"{pid} is gone")


class TrialPoolSuite:
    """Tests of an adapter: a class that inherits this, beside a fixture `opened`, of type Open."""

    def test_trials_are_told_epoch_by_epoch_and_measured(self, opened: Open, work: Workbench) -> None:
        pool = opened(work, at_once=2)
        pool.start(0, lend(1))
        pool.start(1, lend(2))
        assert pool.free == 0
        with pytest.raises(Conflict):
            pool.start(2, lend(3))

        told: list[Reported | Ended] = []
        deadline = time.monotonic() + LIMIT_S
        while sum(isinstance(each, Ended) for each in told) < 2:
            assert time.monotonic() < deadline
            told += pool.wait(1.0)

        for number in (0, 1):
            own = [each for each in told if each.number == number]
            assert [each.epoch for each in own[:-1]] == [1, 2, 3]
            assert own[-1].measured is not None
            run = build(lend(number + 1), work.train, work.validation)
            assert own[-1].measured.weights == run.weights
            assert own[-1].measured.metrics["validation_loss"] == run.metrics["validation_loss"]
            assert own[-1].cost.processor_s > 0
        assert pool.free == 2

    def test_a_trial_that_ends_badly_ends_alone(self, opened: Open, work: Workbench) -> None:
        pool = opened(work, at_once=5, memory=MEMORY)
        diverges = lend(6, model={"type": "mlp", "hidden": [4]}, trainer=DIVERGING)
        for number, pipeline in enumerate((lend(DIES), lend(ALLOCATES), lend(BREAKS), diverges, lend(1))):
            pool.start(number, pipeline)

        found = ended(pool, *range(5))

        said = {number: end.failure.message for number, end in found.items() if end.failure}
        assert said[0] == "its process was killed by SIGKILL: now I die"
        assert "allowed are 600 MB" in said[1]
        assert "a bug" in said[2]
        assert "the loss is no number any more" in said[3]
        assert found[4].measured is not None
        assert not any(lives(started(work, seed)) for seed in (DIES, ALLOCATES, BREAKS))

    def test_a_trial_that_says_nothing_is_ended(self, opened: Open, work: Workbench) -> None:
        pool = opened(work, quiet_s=3.0)
        pool.start(0, lend(HANGS))

        failure = ended(pool, 0)[0].failure

        assert failure is not None
        assert failure.message == "it said nothing for 3 s and was ended"
        assert gone(started(work, HANGS))

    def test_what_a_trial_started_ends_with_it(self, opened: Open, work: Workbench) -> None:
        pool = opened(work)
        pool.start(0, lend(FORKS))

        assert ended(pool, 0)[0].measured is not None
        assert gone(started(work, FORKS, "fork"))

    def test_a_stopped_trial_is_told_and_makes_room(self, opened: Open, work: Workbench) -> None:
        pool = opened(work)
        pool.start(0, lend(HANGS))
        pid = started(work, HANGS)
        pool.stop(0)

        assert ended(pool, 0)[0].stopped
        assert gone(pid)
        pool.stop(0)
        pool.start(0, lend(1))
        assert ended(pool, 0)[0].measured is not None

    def test_closing_ends_what_runs(self, opened: Open, work: Workbench) -> None:
        pool = opened(work)
        pool.start(0, lend(HANGS))
        pid = started(work, HANGS)

        pool.close()

        assert gone(pid)
