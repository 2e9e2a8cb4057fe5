"""Where predictions must be recorded and cannot be, the door is closed: on a real Envoy."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from real_envoy import prepared, running

from penstock.runtime.local_http import ask
from penstock.testing.broker import free_ports
from penstock.testing.wait import until
from penstock_inference.door.door import Backends, Door
from penstock_inference.door.files import prepare
from penstock_inference.door.keeper import DoorKeeper
from penstock_inference.door.routes import NOBODY

pytestmark = pytest.mark.process

INFER = "/inference.GRPCInferenceService/ModelInfer"
READY = "/inference.GRPCInferenceService/ModelReady"
WAITS = "DEADLINE_EXCEEDED"
"""An open door with nobody behind it: a prediction waits for Triton until its client gives up."""
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
    (nothing,) = free_ports(1)
    door = prepared(tmp_path_factory.mktemp("envoy"), Backends(*[f"127.0.0.1:{nothing}"] * 3), {})
    with running(door):
        until(lambda: answers(door), what="Envoy answers")
        yield door


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def infer(door: Door) -> Iterator[Callable[[str], str]]:
    with grpc.insecure_channel(door.listen) as channel:

        def call(method: str = INFER) -> str:
            try:
                channel.unary_unary(method)(b"", timeout=1)
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
    return DoorKeeper(door, said, required=lambda: required, served=list, reserve_bytes=reserve)


def test_the_door_closes_before_the_disk_is_full_and_opens_again(
    door: Door, said: Said, infer: Callable[..., str]
) -> None:
    full = keeper(door, said, reserve=PLENTY)
    full.look()
    until(lambda: "predictions cannot be recorded" in infer(), what="the door is closed")
    assert infer().startswith("UNAVAILABLE: predictions cannot be recorded, and a pipeline requires it: ")
    assert infer(READY).startswith("UNAVAILABLE: predictions cannot be recorded")
    assert "kept in reserve" in said.waiting["door's log"]
    full._reserve = 0
    full.look()
    until(lambda: WAITS in infer(), what="the door is open")
    assert (full.closed, said.waiting) == (None, {})


def test_a_log_that_is_none_closes_the_door(door: Door, said: Said, infer: Callable[..., str]) -> None:
    watching = keeper(door, said)
    watching.look()
    aside = door.folder / "aside.log"
    door.log.rename(aside)
    door.log.symlink_to("/dev/full")
    watching.look()
    until(lambda: "is no file" in infer(), what="the door is closed")
    door.log.unlink()
    aside.rename(door.log)
    watching.look()
    until(lambda: WAITS in infer(), what="the door is open")


def test_best_effort_goes_on_and_says_so(door: Door, said: Said, infer: Callable[..., str]) -> None:
    keeper(door, said, required=False, reserve=PLENTY).look()
    assert "cannot be written" in said.facts["log"]
    assert said.waiting == {}
    assert WAITS in infer()


def test_without_envoy_it_waits(tmp_path: Path, said: Said) -> None:
    (port,) = free_ports(1)
    nowhere = Door(tmp_path, f"127.0.0.1:{port}", f"127.0.0.1:{port}", Backends(*["127.0.0.1:1"] * 3), {})
    prepare(nowhere)
    keeper(nowhere, said).look()
    assert "Connection refused" in said.waiting["envoy"]


def test_the_log_is_its_owners_alone(door: Door) -> None:
    modes = [path.stat().st_mode & 0o777 for path in (door.folder, door.logs, door.log)]
    assert modes == [0o700, 0o700, 0o600]


def test_others_may_ask_for_health_and_metrics_and_nothing_else(door: Door) -> None:
    """In a container Envoy's administration listens where only Envoy itself is."""

    def ask(method: str, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(door.health_listen, timeout=5)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    assert ask("GET", "/ready") == (200, "LIVE\n")
    assert "envoy_http_downstream_rq_total" in ask("GET", "/stats/prometheus")[1]
    for method, path in (
        ("POST", "/quitquitquit"),
        ("GET", "/config_dump"),
        ("POST", "/ready"),
        ("GET", "/"),
    ):
        assert ask(method, path)[0] == 404, (method, path)


def test_predictions_wait_while_the_door_is_held(door: Door, said: Said) -> None:
    """Nobody behind the door: a call waits for its own deadline, and goes on as soon as somebody answers."""
    keeper = DoorKeeper(door, said, required=lambda: False, served=list, reserve_bytes=0)
    keeper.look()
    with grpc.insecure_channel(door.listen) as channel:
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary(INFER)(b"", timeout=1)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        keeper.hold(True)
        until(lambda: behind(door) == NOBODY, what="Envoy has read that nobody is behind it")
        waiting = channel.unary_unary(INFER).future(b"", timeout=30)
        triton = grpc.server(ThreadPoolExecutor(1), handlers=[_Echo()])
        assert triton.add_insecure_port(door.backends.triton)
        triton.start()
        try:
            with pytest.raises(grpc.FutureTimeoutError):
                waiting.result(timeout=1)  # Triton listens, but has not said that its models are there
            keeper.hold(False)
            assert waiting.result(timeout=10) == b"answer"
        finally:
            triton.stop(None)


def behind(door: Door) -> str:
    """Address behind the door's Triton, as Envoy has it."""
    said = ask(door.admin, "GET", "/clusters", within_s=5).decode()
    (found,) = {line.split("::")[1] for line in said.splitlines() if line.startswith("triton::127.")}
    return found


class _Echo(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"answer")
