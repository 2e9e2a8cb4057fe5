"""The suite of trial pools on a Ray that is started here."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trial_pool_suite import HANGS, MODULE, TrialPoolSuite, ended, gone, lend, parent, started, workbench

from penstock.contracts.errors import Kind
from penstock.runtime.marked import MARK, marked
from penstock_tuner.trials.workbench import Workbench

pytestmark = [pytest.mark.process, pytest.mark.slow]
pytest.importorskip("ray", reason="the tuner's extra `ray` is not installed")


@pytest.fixture
def work(tmp_path: Path) -> Workbench:
    return workbench(tmp_path)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Any]:
    from penstock_tuner.pool.ray import RayPool

    (tmp_path / "odd_trial.py").write_text(MODULE)
    pools: list[RayPool] = []

    def opened(work: Workbench, **bounds: Any) -> RayPool:
        told = {"module": "odd_trial", "environment": {"PYTHONPATH": str(tmp_path)}}
        pools.append(RayPool(work, home=tmp_path / "home", **told, **bounds))
        return pools[-1]

    yield opened
    for pool in pools:
        pool.close()


class TestRay(TrialPoolSuite):
    def test_the_death_of_an_actor_ends_its_trial_and_no_other(self, opened: Any, work: Workbench) -> None:
        pool = opened(work, at_once=2)
        pool.start(0, lend(HANGS))
        pid = started(work, HANGS)
        pool.start(1, lend(1))

        os.kill(actor_of(pid), signal.SIGKILL)

        found = ended(pool, 0, 1)
        assert found[0].failure is not None
        assert found[0].failure.kind is Kind.UNAVAILABLE
        assert found[1].measured is not None
        assert gone(pid)
        pool.start(2, lend(1))
        assert ended(pool, 2)[2].measured is not None

    def test_the_raylets_death_ends_its_trials_and_no_others(
        self, opened: Any, work: Workbench, tmp_path: Path
    ) -> None:
        from penstock.runtime.ray_cluster import folder_of

        pool = opened(work)
        pool.start(0, lend(HANGS))
        pid = started(work, HANGS)
        raylets = [
            process
            for process in marked(folder_of(tmp_path / "home"))
            if Path(f"/proc/{process}/comm").read_text().strip() == "raylet"
        ]

        os.kill(raylets[0], signal.SIGKILL)

        failure = ended(pool, 0)[0].failure
        assert failure is not None
        assert failure.kind is Kind.UNAVAILABLE
        assert gone(pid)
        pool.start(1, lend(1))
        assert ended(pool, 1)[1].measured is not None
        pool.close()
        assert [*marked(folder_of(tmp_path / "home"))] == []


def actor_of(trial: int) -> int:
    """Process that a trial's fork server was started by."""
    return parent(parent(trial))


def test_a_machine_ends_no_trials_of_another_beside_it(
    work: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes, or two actors of one, may have the study's folder."""
    from penstock_tuner.pool.ray import Machine

    monkeypatch.setenv(MARK, "")
    monkeypatch.delenv(MARK)
    with subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: str(work.folder)}) as beside:
        machine = Machine(work.model_dump_json(), {}, {})
        machine.close()
        assert beside.poll() is None
        beside.kill()


def test_the_folder_of_a_machine_that_was_killed_goes(
    work: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from penstock_tuner.pool.ray import OWN, Machine

    monkeypatch.setenv(MARK, str(work.folder))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = tmp_path / f"{OWN}{ended.pid}-x"
    left.mkdir()
    machine = Machine(Workbench(folder=tmp_path / "elsewhere").model_dump_json(), work.packed(), {})
    assert not left.exists()
    assert [folder.name.split("-")[2] for folder in tmp_path.glob(f"{OWN}*")] == [str(os.getpid())]
    machine.close()
    assert not [*tmp_path.glob(f"{OWN}*")]
