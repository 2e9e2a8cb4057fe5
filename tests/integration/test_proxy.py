"""Local traffic is never sent to a proxy that the user's environment names."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from penstock.client.connection import Connection
from penstock.contracts.errors import Unavailable
from penstock.runtime import rpc
from penstock.runtime.health import look
from penstock.stack import inspection, ports
from penstock.stack.stackfile import StackFile
from penstock.status.v1 import status_pb2
from penstock_inference.serving.triton import Triton


class Anything(grpc.GenericRpcHandler):
    """Answers every call; what waits says so."""

    def service(self, details: Any) -> Any:
        answer = b""
        if details.method.endswith("/GetStatus"):
            waiting = [status_pb2.Waiting(thing="kafka")]
            service = status_pb2.ServiceStatus(waiting=waiting)
            answer = status_pb2.GetStatusResponse(services=[service]).SerializeToString()
        return grpc.unary_unary_rpc_method_handler(lambda _, __: answer)


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = grpc.server(ThreadPoolExecutor(2), handlers=[Anything()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_client(address: str, host: str) -> None:
    connection = Connection(address.replace("127.0.0.1", host))
    check = health_pb2_grpc.HealthStub(connection.channel).Check
    connection.call(check, health_pb2.HealthCheckRequest(), timeout=5)
    connection.channel.close()


def test_the_client_asks_the_proxy_for_what_lies_elsewhere(address: str) -> None:
    connection = Connection("penstock.example:80")
    check = health_pb2_grpc.HealthStub(connection.channel).Check
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        connection.call(check, health_pb2.HealthCheckRequest(), timeout=5)
    connection.channel.close()


async def test_services(address: str) -> None:
    async with rpc.connect(address) as channel:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    async with Triton(address) as triton:
        assert await triton.loaded() == {}


def test_what_looks_after_them(address: str, tmp_path: Path) -> None:
    assert look(address) == "waits for kafka ()"
    stack = StackFile.of(tmp_path, ports.DEFAULTS, ("ingest",))
    assert inspection._ask_service(address, stack) == (("kafka",), ())
