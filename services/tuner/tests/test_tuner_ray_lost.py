"""A Ray cluster that is lost while trials run: each has an end, once. What Ray says then is played."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trial_pool_suite import lend

from penstock.contracts.errors import Kind
from penstock_tuner.trials.workbench import Workbench

pytest.importorskip("ray", reason="the tuner's extra `ray` is not installed")


class Ray:
    """A cluster whose actors say nothing. `there`: whether this process is joined to it; `broken`: what
    its calls raise.
    """

    def __init__(self) -> None:
        self.there = False
        self.broken: Exception | None = None

    def join(self, **_: object) -> None:
        self.there = True

    def leave(self) -> None:
        self.there = False

    def call(self, *_: object) -> object:
        if self.broken is not None:
            raise self.broken
        return object()

    @property
    def method(self) -> Any:
        return SimpleNamespace(remote=self.call)

    def remote(self, **_: object) -> Any:
        actor = SimpleNamespace(start=self.method, wait=self.method, stop=self.method, close=self.method)
        return lambda machine: SimpleNamespace(remote=lambda *_: actor)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Ray:
    ray = Ray()
    monkeypatch.setattr("ray.init", ray.join)
    monkeypatch.setattr("ray.shutdown", ray.leave)
    monkeypatch.setattr("ray.is_initialized", lambda: ray.there)
    monkeypatch.setattr("ray.remote", ray.remote)
    monkeypatch.setattr("ray.put", lambda content: content)
    monkeypatch.setattr("ray.wait", lambda answers, timeout: (ray.call() and [], answers))
    monkeypatch.setattr("ray.get", lambda *_, **__: ray.call())
    monkeypatch.setattr("ray.kill", ray.call)
    return ray


@pytest.fixture
def pool(cluster: Ray, tmp_path: Path) -> Any:
    from penstock_tuner.pool.ray import RayPool

    address = "ray://192.0.2.1:10001"
    return RayPool(Workbench(folder=tmp_path), home=tmp_path, address=address, at_once=3)


def died(told: list[Any]) -> list[int]:
    """Numbers of the trials that ended with their node."""
    assert all(each.failure.kind is Kind.UNAVAILABLE for each in told)
    return [each.number for each in told]


def test_trials_of_a_head_that_died_before_the_next_began_have_their_ends(cluster: Ray, pool: Any) -> None:
    pool.start(0, lend())
    pool.start(1, lend())
    cluster.there = False
    pool.start(2, lend())
    assert pool.free == 0
    assert died(pool.wait(0)) == [0, 1]
    assert pool.wait(0) == []
    assert pool.free == 2


def test_a_trial_that_cannot_begin_has_an_end(cluster: Ray, pool: Any) -> None:
    pool.start(0, lend())
    cluster.broken = ConnectionError("the client has already been disconnected")
    pool.start(1, lend())
    assert pool.free == 1
    pool.stop(0)
    assert died([*pool.wait(0), *pool.wait(0)]) == [1, 0]
    assert pool.free == 3


def test_a_trial_that_is_given_up_has_an_end_though_the_head_is_gone(
    cluster: Ray, pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock_tuner.pool.ray.PLACED_S", -1.0)
    pool.start(0, lend())
    monkeypatch.setattr("ray.wait", lambda answers, timeout: ([], answers))
    cluster.broken = ConnectionError("the client has already been disconnected")
    assert died(pool.wait(0)) == [0]


def test_a_head_that_began_anew_has_lost_its_trials(cluster: Ray, pool: Any) -> None:
    """It does not know this client, which goes on believing that it is connected."""
    import grpc

    pool.start(0, lend())
    cluster.broken = grpc.RpcError("NOT_FOUND")
    assert pool.wait(0) == []
    assert died(pool.wait(0)) == [0]
    assert not cluster.there
