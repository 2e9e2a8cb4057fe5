"""The suite of trial pools on a Ray that is started here."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trial_pool_suite import HANGS, MODULE, TrialPoolSuite, ended, gone, lend, started, workbench

from penstock.contracts.errors import Kind
from penstock_tuner.pool.leftovers import marked
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
    def test_the_raylets_death_ends_its_trials_and_no_others(
        self, opened: Any, work: Workbench, tmp_path: Path
    ) -> None:
        from penstock_tuner.pool.ray import _folder

        pool = opened(work)
        pool.start(0, lend(HANGS))
        pid = started(work, HANGS)
        raylets = [
            process
            for process in marked(_folder(tmp_path / "home"))
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
        assert [*marked(_folder(tmp_path / "home"))] == []
