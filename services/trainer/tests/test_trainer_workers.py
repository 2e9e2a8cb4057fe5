from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from workers_suite import EPOCHS, HANGS, WorkersSuite, ended, fitting_of, gone, lend, parts, pid_of

from penstock.contracts.errors import Invalid, Kind
from penstock.contracts.events import TrainingRunRequested
from penstock.contracts.pipeline import Pipeline
from penstock.modelkit.build import build
from penstock.modelkit.fitting import Fitting
from penstock.runtime.child import JobContext
from penstock.runtime.jobs.policy import Failure
from penstock.testing import lending
from penstock.testing.wait import until
from penstock_trainer.job import run
from penstock_trainer.settings import Settings
from penstock_trainer.workers import processes
from penstock_trainer.workers.choice import spread
from penstock_trainer.workers.pays import Alone, Choice, Probe, done_before, measured_of, weighed
from penstock_trainer.workers.port import Ended, Order
from penstock_trainer.workers.processes import Processes
from penstock_trainer.workers.spread import Spread

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def workers(made: Path) -> Iterator[Processes]:
    """For all tests: torch takes seconds to load."""
    opened = Processes("odd_worker", {"PYTHONPATH": str(made), "ODD": str(made)})
    yield opened
    opened.close()


class TestProcesses(WorkersSuite):
    """Processes on this machine."""


def test_a_run_has_the_workers_of_its_file(loans: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_HOME", str(loans.folder / "home"))
    monkeypatch.setenv("PENSTOCK_ARTIFACTS", loans.artifacts.root)
    for peer, address in loans.peers.items():
        monkeypatch.setenv(f"PENSTOCK_PEERS__{peer.upper()}", address)
    loans.start_registry()
    loans.start_feature_store()
    loans.spec["training"] = {"workers": 2}
    requested = TrainingRunRequested(
        run_id="01RUN",
        pipeline="loans",
        pipeline_number=3,
        reason="requested",
        overrides={"model.type": "linear"},
        requested_at=lending.NOW,
        requested_by="ann",
    )
    said = io.StringIO()

    run(JobContext("01RUN", "training", requested.model_dump(mode="json"), 1, Settings(), said))

    told = [json.loads(line)["progress"] for line in said.getvalue().splitlines()]
    assert {"workers": 2, "because": ""} in told
    epochs = [each["epoch"] for each in told if "epoch" in each]
    assert [epoch["number"] for epoch in epochs] == [1, 2, 3]
    assert all(0 < epoch["communication_s"] < epoch["took_s"] for epoch in epochs)
    assert not [*(Settings().runs_dir / "01RUN" / "workers").glob("*.pt")]


@pytest.mark.parametrize("workers", [1, 2, "auto"])
def test_a_run_that_asks_for_a_gpu_fails_where_none_is(
    workers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    training = {"accelerator": "gpu", "workers": workers}
    spec = lending.spec(training=training, model={"type": "mlp"})
    with (
        pytest.raises(Invalid, match="no GPU") as refused,
        spread(Pipeline.model_validate(spec), tmp_path, Settings(), lambda told: None),
    ):
        pass
    assert refused.value.where == "training.accelerator"


def test_rows_and_checkpoint_travel_to_machines_without_them(tmp_path: Path, odd: Path) -> None:
    """Actors of two nodes, which meet at a port; here in one process."""
    pytest.importorskip("ray")
    from penstock_trainer.workers.ray import Carried, Machine

    file = fitting_of(lend(), parts(tmp_path), tmp_path / "fitting.pt")
    files = {file.name: file.read_bytes()}
    away = Order(tmp_path / "elsewhere" / file.name, tmp_path / "elsewhere" / "checkpoint.pt", 2)
    environment = {"PYTHONPATH": str(odd), "ODD": str(odd)}
    machines = [Machine(partial(Processes, "odd_worker", environment)) for _ in range(2)]

    def carried_by_both() -> list[Carried]:
        meet = machines[0].address() | {"host": "127.0.0.1", "secret": "s3cret"}
        for rank, machine in enumerate(machines):
            machine.begin(away, rank, meet, files)
        told: list[Any] = []
        until(
            lambda: [told.extend(one.wait()) for one in machines] and told.count(Ended()) == 2,
            what="they end",
        )
        return [each for each in told if isinstance(each, Carried)]

    carried_by_both()  # leaves a checkpoint with worker 0 alone, which is none to go on from
    carried = carried_by_both()
    for machine in machines:
        machine.close()

    assert [each.epoch.number for each in carried] == list(range(1, EPOCHS + 1))
    (tmp_path / "carried.pt").write_bytes(carried[-1].checkpoint)
    history = Fitting.read(file).train(checkpoint=tmp_path / "carried.pt")
    assert history == tuple(each.epoch for each in carried), "nothing was left to train"
    assert not away.checkpoint.exists()


DRIVER = """
import sys
from functools import partial
from pathlib import Path
from penstock_trainer.workers.port import Order
from penstock_trainer.workers.processes import Processes

workers = Processes("odd_worker")
workers.start(Order(Path(sys.argv[1]), Path(sys.argv[1]).with_name("checkpoint.pt"), 2))
while True:
    workers.wait(1.0)
"""


def test_no_process_outlives_a_driver_that_was_killed(tmp_path: Path, odd: Path) -> None:
    file = fitting_of(lend(HANGS), parts(tmp_path), tmp_path / "fitting.pt")
    environment = {**os.environ, "PYTHONPATH": str(odd), "ODD": str(odd)}
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(file)], env=environment)
    try:
        pids = [pid_of(odd, rank) for rank in range(2)]
        server = int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1])
    finally:
        driver.kill()
        driver.wait()

    assert all(gone(pid) for pid in (*pids, server))


@pytest.mark.parametrize("patience_s", [processes.GONE_S, 0.0])
def test_a_worker_that_is_stopped_before_it_runs_never_does(
    tmp_path: Path, odd: Path, monkeypatch: pytest.MonkeyPatch, patience_s: float
) -> None:
    monkeypatch.setattr(processes, "GONE_S", patience_s)
    file = fitting_of(lend(), parts(tmp_path), tmp_path / "fitting.pt")
    environment = {"PYTHONPATH": str(odd), "ODD": str(odd)}
    with closing(Processes("odd_worker", environment)) as workers:
        order = Order(file, tmp_path / "checkpoint.pt", 2)
        workers.begin(order, [1], {"file": str(tmp_path / "nobody-comes")})
        workers.stop()  # torch is still being loaded
        workers.start(Order(file, order.checkpoint, 1, steps=3))
        assert ended(workers) == Ended()
        assert workers._server._server is not None
        server = workers._server._server.pid
        assert Path(f"/proc/{server}/task/{server}/children").read_text().split() == []


def test_few_rows_are_not_worth_several_workers(tmp_path: Path) -> None:
    """They are not even started: there are none here."""
    said: list[object] = []
    spread = Spread(None, "auto", tmp_path / "work", said.append)  # type: ignore[arg-type]
    files = parts(tmp_path)
    assert build(lend(), *files, loop=spread).weights == build(lend(), *files).weights
    (told,) = said
    assert "one worker: it needs at most" in str(told)


@pytest.mark.parametrize(
    ("together", "workers", "said"),
    [
        (0.006, 2, "2 workers: a step takes 10.00 ms alone and 6.00 ms by 2"),
        (0.0096, 1, "one worker: a step takes 10.00 ms alone and 9.60 ms by 2"),  # 5 s to begin count, too
        (0.023, 1, "one worker"),
    ],
)
def test_several_workers_must_pay(together: float, workers: int, said: str) -> None:
    found = weighed(Probe(workers=2, alone=Alone(0.010), left=10_000), together)
    assert found.workers == workers
    assert said in found.because


def test_threads_must_pay_and_several_workers_are_measured_where_that_costs_little() -> None:
    one = Alone(0.010)
    assert one.or_on(2, 0.0097) == one
    two = one.or_on(2, 0.006)
    assert two == Alone(0.006, 2)
    few = done_before(two, 10_000)
    assert few is not None
    assert (few.workers, few.threads) == (1, 2)
    assert "one worker on 2 threads: it needs at most 60.0 s" in few.because
    assert done_before(two, 30_000) is None
    assert weighed(Probe(2, two, 30_000), 0.0059).threads == 2


def test_measuring_costs_a_short_training_little() -> None:
    assert [measured_of(left) for left in (10, 940, 100_000)] == [3, 4, 10]


def test_a_training_on_all_threads_is_the_same_each_time(tmp_path: Path) -> None:
    """A wide network, whose sums are shared among threads; on one again when it is done."""
    spread = Spread(None, "auto", tmp_path / "work", lambda _: None)  # type: ignore[arg-type]
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "choice.json").write_text('{"workers": 1, "because": "", "threads": 2}')
    files = parts(tmp_path)
    wide = lend(model={"type": "mlp", "hidden": [512, 512]})
    seen: list[int] = []

    def trained() -> str:
        return build(
            wide, *files, loop=spread, on_epoch=lambda _: seen.append(torch.get_num_threads())
        ).weights

    assert trained() == trained()
    assert set(seen) == {2}
    assert torch.get_num_threads() == 1


class Reader:
    """Workers that look at what they are given, and fail."""

    most, most_gpus, seed = 2, 0, 0

    def start(self, order: Order) -> int:
        self.seed = Fitting.read(order.fitting).seed
        return order.size

    def wait(self, timeout_s: float) -> list[Any]:
        return [Ended(failure=Failure(Kind.INVALID, "seen", ""))]

    def close(self) -> None:
        pass


def test_rows_that_an_attempt_before_left_are_written_anew(tmp_path: Path) -> None:
    """Another release may have written them."""
    files, workers = parts(tmp_path), Reader()
    (tmp_path / "fitting.pt").write_bytes(b"of another release")
    with pytest.raises(Invalid, match="seen"):
        build(lend(seed=3), *files, loop=Spread(workers, 2, tmp_path, lambda _: None))
    assert workers.seed == 3


def test_what_was_chosen_before_a_crash_stays(tmp_path: Path) -> None:
    spread = Spread(None, "auto", tmp_path, lambda _: None)  # type: ignore[arg-type]
    files = parts(tmp_path)
    build(lend(), *files, loop=spread)
    (tmp_path / "choice.json").write_text('{"workers": 2, "because": "as measured"}')
    assert spread._choice(None, tmp_path / "fitting.pt") == Choice(2, "as measured")  # type: ignore[arg-type]
