"""A Ray cluster that is lost while it is asked. What Ray says then is played: see `ray_head.py` for a real
head's death.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from penstock.contracts.errors import Unavailable
from penstock_trainer.workers.port import Ended, Order

pytest.importorskip("ray", reason="the trainer's extra `ray` is not installed")


def refused(error: Exception) -> Any:
    """A call that raises it."""

    def call(*_: object, **__: object) -> Any:
        raise error

    return call


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """With an actor on a cluster that seems to be there."""
    from penstock_trainer.workers import ray as module

    def shut_down() -> None:
        monkeypatch.setattr("ray.is_initialized", lambda: False)

    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.shutdown", shut_down)
    asked: list[object] = []
    monkeypatch.setattr(module, "remove_placement_group", asked.append)
    workers: Any = module.RayWorkers(tmp_path, "ray://192.0.2.1:10001")
    called = SimpleNamespace(remote=lambda: None)
    workers._machines = [SimpleNamespace(close=called, stop=called, wait=called)]
    workers.asked = asked
    return workers


def test_workers_that_are_done_are_closed(workers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head has died while their model was packaged, and Ray has looked for it for ten seconds."""
    from ray.exceptions import GetTimeoutError

    monkeypatch.setattr("ray.get", refused(GetTimeoutError("nothing for 10 s")))
    monkeypatch.setattr("ray.kill", refused(ConnectionError("the client has been disconnected")))
    workers.close()
    assert not workers._cluster.connected
    assert workers.asked == [], "it would start another Ray"


@pytest.mark.parametrize("asked", ["most", "most_gpus"])
def test_a_question_for_room_may_pass(workers: Any, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.available_resources", refused(ConnectionError("Client is shutting down.")))
    with pytest.raises(Unavailable, match=r"RAY_ADDRESS: Ray is not there any more: Client is shutting"):
        getattr(workers, asked)


def test_a_head_that_began_anew_has_lost_the_workers(
    workers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not know this client, which goes on believing that it is connected."""
    import grpc

    monkeypatch.setattr("ray.wait", refused(grpc.RpcError("NOT_FOUND")))
    workers._order = Order(tmp_path / "fitting.pt", tmp_path / "checkpoint.pt", 1)
    workers._answers, workers._heard_at = {"an answer": 0}, {0: time.monotonic()}
    lost = Ended(lost="the Ray node of all workers, or the head of their cluster, died")
    assert workers.wait(60.0) == [lost]
    assert not workers._cluster.connected
