"""The suite of workers on a Ray that is started here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from workers_suite import EPOCHS, HANGS, WorkersSuite, ended, fitting_of, gone, lend, parts, pid_of

from penstock.contracts.errors import Unavailable
from penstock.runtime.marked import marked
from penstock_trainer.workers.port import Ended, Order
from penstock_trainer.workers.processes import Processes

pytestmark = [pytest.mark.process, pytest.mark.slow]
pytest.importorskip("ray", reason="the trainer's extra `ray` is not installed")


@pytest.fixture(scope="module")
def workers(made: Path) -> Iterator[Any]:
    from penstock_trainer.workers.ray import RayWorkers

    environment = {"PYTHONPATH": str(made), "ODD": str(made)}
    opened = RayWorkers(made / "home", placed_s=5.0, opened=partial(Processes, "odd_worker", environment))
    yield opened
    opened.close()


class TestRay(WorkersSuite):
    def test_no_room_is_a_sentence(self, workers: Any, tmp_path: Path, odd: Path) -> None:
        file = fitting_of(lend(), parts(tmp_path), tmp_path / "fitting.pt")
        with pytest.raises(Unavailable, match=r"no room for 99 workers within 5 s: \d of its \d+"):
            workers.start(Order(file, tmp_path / "checkpoint.pt", 99))

    def test_workers_with_a_gpu_each_wait_for_gpus(self, workers: Any, tmp_path: Path, odd: Path) -> None:
        """Of which this machine has none, or fewer."""
        file = fitting_of(lend(), parts(tmp_path), tmp_path / "fitting.pt")
        wanted = max(2, workers.most_gpus + 1)
        with pytest.raises(Unavailable, match=r"processors and \d of its \d+ GPUs are free"):
            workers.start(Order(file, tmp_path / "checkpoint.pt", wanted, gpus=True))

    def test_the_raylets_death_is_told_and_another_takes_its_place(
        self, workers: Any, tmp_path: Path, odd: Path
    ) -> None:
        from penstock.runtime.ray_cluster import folder_of

        file = fitting_of(lend(HANGS), parts(tmp_path), tmp_path / "fitting.pt")
        workers.start(Order(file, tmp_path / "checkpoint.pt", 2))
        pids = [pid_of(odd, rank) for rank in range(2)]
        ray = folder_of(odd / "home")
        (raylet,) = [pid for pid in marked(ray) if Path(f"/proc/{pid}/comm").read_text().strip() == "raylet"]

        os.kill(raylet, signal.SIGKILL)

        assert "the Ray node" in ended(workers).lost
        assert all(gone(pid) for pid in pids)
        workers.start(Order(file, tmp_path / "checkpoint.pt", 2, steps=3))
        assert ended(workers) == Ended()


def ran(program: str, folder: Path, **environment: str) -> str:
    """The last line that a program beside this file prints."""
    command = [sys.executable, Path(__file__).with_name(program), folder]
    usual = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        command, env={**os.environ, **usual, **environment}, stdout=subprocess.PIPE, check=True, timeout=300
    )
    return done.stdout.decode().splitlines()[-1]


def test_a_head_that_dies_is_told_and_its_checkpoint_kept(tmp_path: Path) -> None:
    settings = {"GRPC_ENABLE_FORK_SUPPORT": "0", "RAY_CLIENT_RECONNECT_GRACE_PERIOD": "5"}
    assert ran("ray_head.py", tmp_path, GLOO_SOCKET_IFNAME="lo", **settings) == (
        "RAY_ADDRESS: Ray is not there: ray client connection timeout; checkpoint: True"
    )


def test_a_node_that_dies_leaves_the_rest_to_train_the_same_model(tmp_path: Path) -> None:
    """On a cluster that was there before, whose nodes meet at a port."""
    found = json.loads(ran("ray_nodes.py", tmp_path))
    assert found["epochs"] == list(range(1, EPOCHS + 1))
    assert found["said"] == [
        {"workers": 2, "because": ""},
        {"workers": 1, "because": "2 were asked for, and there was room for 1"},
    ]
    assert found["several"] == pytest.approx(found["one"], abs=1e-4)
