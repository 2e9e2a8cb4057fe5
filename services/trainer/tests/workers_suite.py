"""Behaviour of all `Workers`, wherever they run."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.contracts.errors import Invalid, PenstockError
from penstock.contracts.pipeline import Pipeline
from penstock.modelkit.build import Built, build
from penstock.modelkit.family import Epoch
from penstock.modelkit.fitting import Fitting
from penstock.runtime.marked import lives
from penstock.testing import lending
from penstock.testing.wait import until
from penstock_trainer.workers.port import Ended, Measured, Order, Workers
from penstock_trainer.workers.spread import DEATHS, Spread

LIMIT_S = 60.0
RUNS_WITHIN_S = 240.0  # one process after the other loads torch first
EPOCHS = 6
DIVERGES: Any = {
    "epochs": 9,
    "early_stopping": None,
    "gradient_clip": None,
    "optimizer": {"type": "sgd", "learning_rate": 10, "weight_decay": 1e9},
}

# Seeds of trainings of which a worker does not do as it should.
HANGS, DIES_LATE, DIES = range(9001, 9004)
MODULE = f"""
import os, time
from pathlib import Path
from penstock_trainer.workers import child

work = child.work

def odd(request, say):
    seed = child.Fitting.read(Path(request["fitting"])).seed
    beside = Path(os.environ["ODD"]) / f"{{request['rank']}}.pid"
    died = beside.with_name("died")
    beside.write_text(str(os.getpid()))

    def said(**line):
        say(**line)
        if "epoch" in line and seed == {HANGS}:
            time.sleep(3600)  # until it is ended
        if "epoch" in line and line["epoch"]["number"] == 3 and seed == {DIES_LATE} and not died.exists():
            died.touch()
            os.kill(os.getpid(), 9)

    if request["rank"] == 1 and seed == {DIES}:
        print("now I die", flush=True)
        os.kill(os.getpid(), 9)
    work(request, said)

child.work = odd
child.main()
"""


def lend(seed: int = 1, **sections: Any) -> Pipeline:
    usual = {
        "model": {"type": "mlp", "hidden": [8], "dropout": 0.2},
        "trainer": {"epochs": EPOCHS, "batch_size": 64, "early_stopping": None},
    }
    return lending.pipeline(training={"seed": seed}, **usual | sections)


def parts(folder: Path) -> tuple[Path, Path]:
    train, validation = (
        lending.write_part(folder / f"{name}.parquet", lending.applications(name, rows))
        for name, rows in (("train", 400), ("validation", 100))
    )
    return train, validation


def fitting_of(pipeline: Pipeline, files: tuple[Path, Path], path: Path) -> Path:
    """Writes what the pipeline's family would train."""

    class Kept(Exception):
        pass

    def keep(*given: Any, seed: int, **_: Any) -> Any:
        Fitting(*given, seed, torch.get_rng_state()).write(path)
        raise Kept

    with pytest.raises(Kept):
        build(pipeline, *files, loop=keep)
    return path


def ended(workers: Workers, told: list[Any] | None = None) -> Ended:
    """The end, and before it whatever is `told`."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        for each in workers.wait(1.0):
            if isinstance(each, Ended):
                return each
            if told is not None:
                told.append(each)
    raise AssertionError(f"nothing ended in {LIMIT_S} s")


def pid_of(folder: Path, rank: int) -> int:
    file = folder / f"{rank}.pid"
    runs = f"worker {rank} runs"
    return int(until(lambda: file.exists() and file.read_text(), within=RUNS_WITHIN_S, what=runs))


def gone(pid: int) -> bool:
    return until(lambda: not lives(pid), within=10, what=f"{pid} is gone")


class WorkersSuite:
    """Tests of an adapter: a class that inherits this, beside fixtures `workers`, opened on MODULE with
    `ODD` in its environment, and `odd`, that folder, which each test finds as it was made.
    """

    def test_workers_train_what_one_does(self, workers: Workers, tmp_path: Path, odd: Path) -> None:
        files, told, said = parts(tmp_path), [], []
        spread = Spread(workers, 2, tmp_path / "work", said.append)
        several = build(lend(), *files, loop=spread, on_epoch=lambda epoch: told.append(epoch.number))
        one = build(lend(), *files)

        assert told == list(range(1, EPOCHS + 1))
        assert said == [{"workers": 2, "because": ""}]
        assert several.metrics == pytest.approx(one.metrics, abs=1e-4)
        again = build(lend(), *files, loop=Spread(workers, 2, tmp_path / "again", said.append))
        assert again.weights == several.weights

    def test_a_worker_that_dies_is_named_and_the_checkpoint_gone_on_from(
        self, workers: Workers, tmp_path: Path, odd: Path
    ) -> None:
        file = fitting_of(lend(HANGS), parts(tmp_path), tmp_path / "fitting.pt")
        order = Order(file, tmp_path / "checkpoint.pt", 2)
        workers.start(order)
        told: list[Any] = []
        until(lambda: told.extend(workers.wait(1.0)) or told, what="an epoch is told")
        os.kill(pid_of(odd, 1), signal.SIGKILL)

        assert "worker 1 was killed by SIGKILL" in ended(workers).lost
        assert gone(pid_of(odd, 0))
        assert order.checkpoint.exists()

    def test_after_a_death_the_same_bits_follow(self, workers: Workers, tmp_path: Path, odd: Path) -> None:
        files = parts(tmp_path)

        def trained(name: str) -> Built:
            spread = Spread(workers, 2, tmp_path / name, lambda _: None)
            return build(lend(DIES_LATE), *files, loop=spread)

        assert trained("one").weights == trained("other").weights
        assert (odd / "died").exists()

    def test_what_the_training_says_is_told(self, workers: Workers, tmp_path: Path, odd: Path) -> None:
        spread = Spread(workers, 2, tmp_path / "work", lambda _: None)
        with pytest.raises(Invalid, match="the loss is no number any more"):
            build(lend(trainer=DIVERGES), *parts(tmp_path), loop=spread)

    def test_deaths_without_progress_end_it(self, workers: Workers, tmp_path: Path, odd: Path) -> None:
        spread = Spread(workers, 2, tmp_path / "work", lambda _: None)
        with pytest.raises(
            PenstockError, match=rf"died {DEATHS} times, the last time worker 1 .*: now I die"
        ):
            build(lend(DIES), *parts(tmp_path), loop=spread)

    def test_a_step_is_measured(self, workers: Workers, tmp_path: Path, odd: Path) -> None:
        file = fitting_of(lend(), parts(tmp_path), tmp_path / "fitting.pt")
        workers.start(Order(file, tmp_path / "checkpoint.pt", 2, steps=3))
        told: list[Epoch | Measured] = []
        assert ended(workers, told) == Ended()
        (measured,) = told
        assert isinstance(measured, Measured)
        assert 0 < measured.step_s < 1
        assert not (tmp_path / "checkpoint.pt").exists()

    def test_what_was_measured_has_ended_before_the_training_begins(
        self, workers: Workers, tmp_path: Path, odd: Path
    ) -> None:
        if workers.most < 2:
            pytest.skip("there is one processor")
        file = fitting_of(lend(), parts(tmp_path), tmp_path / "fitting.pt")
        given = Fitting.read(file)
        long = replace(given, plan=given.plan.model_copy(update={"epochs": 10**6}))
        choice = Spread(workers, "auto", tmp_path, lambda _: None)._choice(long, tmp_path / "measured.pt")
        assert "a step takes" in choice.because
        assert not any(lives(pid_of(odd, rank)) for rank in range(2))

        workers.start(Order(file, tmp_path / "checkpoint.pt", 2))

        told: list[Any] = []
        assert ended(workers, told) == Ended()
        assert [epoch.number for epoch in told] == list(range(1, EPOCHS + 1))

    def test_closing_ends_what_runs(self, workers: Workers, tmp_path: Path, odd: Path) -> None:
        file = fitting_of(lend(HANGS), parts(tmp_path), tmp_path / "fitting.pt")
        workers.start(Order(file, tmp_path / "checkpoint.pt", 2))
        pids = [pid_of(odd, rank) for rank in range(2)]

        workers.close()

        assert all(gone(pid) for pid in pids)
