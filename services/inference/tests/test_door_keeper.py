"""Where predictions must be recorded and cannot be, the door is closed: on a real Envoy."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from penstock.stack.envoy import Envoy
from penstock.testing.broker import free_ports
from penstock.testing.wait import until
from penstock_inference.door import write_first
from penstock_inference.door_keeper import DoorKeeper
from penstock_inference.envoy import Door

pytestmark = pytest.mark.process

INFER = "/inference.GRPCInferenceService/ModelInfer"
READY = "/inference.GRPCInferenceService/ModelReady"
NO_TRITON = "upstream connect error"
PLENTY = 1 << 60
"""More than any disk has free."""


class Said:
    """What `penstock status` would show."""

    def __init__(self) -> None:
        self.waiting: dict[str, str] = {}
        self.facts: dict[str, str] = {}

    def waits_for(self, thing: str, why: str) -> None:
        self.waiting[thing] = why

    def has(self, thing: str) -> None:
        self.waiting.pop(thing, None)

    def fact(self, key: str, text: str) -> None:
        self.facts[key] = text


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A door of its own; behind it is nothing."""
    listen, admin, nothing = free_ports(3)
    folder = tmp_path_factory.mktemp("envoy")
    door = Door(folder, f"127.0.0.1:{listen}", f"127.0.0.1:{admin}", f"127.0.0.1:{nothing}", f"127.0.0.1:{nothing}", {})
    write_first(door)
    with (folder / "log").open("wb") as log:
        envoy = subprocess.Popen(Envoy(folder).command(), stdout=log, stderr=log)
    try:
        until(lambda: answers(door), within=20, what="Envoy answers")
        yield door
    finally:
        envoy.kill()
        envoy.wait()


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def infer(door: Door) -> Iterator[Callable[[str], str]]:
    with grpc.insecure_channel(door.listen) as channel:

        def call(method: str = INFER) -> str:
            try:
                channel.unary_unary(method)(b"", timeout=5)
            except grpc.RpcError as error:
                return f"{error.code().name}: {error.details()}"
            return "OK"

        yield call


def answers(door: Door) -> bool:
    host, _, port = door.listen.partition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    return True


def keeper(door: Door, said: Said, *, required: bool = True, reserve: int = 0) -> DoorKeeper:
    return DoorKeeper(door, said, required=lambda: required, reserve_bytes=reserve)


def test_the_door_closes_before_the_disk_is_full_and_opens_again(door: Door, said: Said, infer: Callable[..., str]) -> None:
    full = keeper(door, said, reserve=PLENTY)
    full.look()
    until(lambda: "predictions cannot be recorded" in infer(), within=5, what="the door is closed")
    assert infer().startswith("UNAVAILABLE: predictions cannot be recorded, and a pipeline requires it: ")
    assert infer(READY).startswith("UNAVAILABLE: predictions cannot be recorded")
    assert "kept in reserve" in said.waiting["door's log"]
    full._reserve = 0
    full.look()
    until(lambda: NO_TRITON in infer(), within=5, what="the door is open")
    assert (full.closed, said.waiting) == (None, {})


def test_a_log_that_is_none_closes_the_door(door: Door, said: Said, infer: Callable[..., str]) -> None:
    watching = keeper(door, said)
    watching.look()
    aside = door.folder / "aside.log"
    door.log.rename(aside)
    door.log.symlink_to("/dev/full")
    watching.look()
    until(lambda: "is no file" in infer(), within=5, what="the door is closed")
    door.log.unlink()
    aside.rename(door.log)
    watching.look()
    until(lambda: NO_TRITON in infer(), within=5, what="the door is open")


def test_best_effort_goes_on_and_says_so(door: Door, said: Said, infer: Callable[..., str]) -> None:
    keeper(door, said, required=False, reserve=PLENTY).look()
    assert "cannot be written" in said.facts["log"]
    assert said.waiting == {}
    assert NO_TRITON in infer()


def test_without_envoy_it_waits(tmp_path: Path, said: Said) -> None:
    (port,) = free_ports(1)
    nowhere = Door(tmp_path, f"127.0.0.1:{port}", f"127.0.0.1:{port}", "127.0.0.1:1", "127.0.0.1:1", {})
    write_first(nowhere)
    keeper(nowhere, said).look()
    assert "Connection refused" in said.waiting["envoy"]


def test_the_log_is_its_owners_alone(door: Door) -> None:
    assert (door.folder.stat().st_mode & 0o777, door.log.stat().st_mode & 0o777) == (0o700, 0o600)
