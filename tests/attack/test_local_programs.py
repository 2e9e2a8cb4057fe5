"""A program of another user of this machine, or a page in a browser, reaches what listens on
127.0.0.1: it must find nothing there by which Triton takes a model, or Envoy closes the door.
"""

from __future__ import annotations

import http.client
import stat
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from penstock.stack.ports import DEFAULTS
from penstock.testing.stack import StackUnderTest

pytestmark = pytest.mark.stack


def listening(pid: int) -> set[int]:
    """TCP ports at which a process or one of its children listens."""
    root, found = psutil.Process(pid), set()
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # a child that has ended since
            found |= {
                connection.laddr.port
                for connection in process.net_connections("tcp")
                if connection.status == psutil.CONN_LISTEN
            }
    return found


def test_triton_and_envoy_listen_for_others_at_metrics_and_the_door_only(stack: StackUnderTest) -> None:
    ports = stack.stack.file.ports
    assert listening(stack.pid("triton")) == {ports["triton_metrics"]}
    assert listening(stack.pid("gateway")) == set()
    assert listening(stack.pid("envoy")) == {ports["door"], ports["sites"]}
    assert not {"triton_grpc", "gateway_grpc", "gateway_http", "door_admin"} & DEFAULTS.keys()


@pytest.mark.parametrize("name", ["triton_grpc", "gateway_grpc", "gateway_http", "door_admin"])
def test_their_sockets_are_this_users_alone(stack: StackUnderTest, name: str) -> None:
    path = Path(getattr(stack.stack.file, name).removeprefix("unix:"))
    assert path.is_socket()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("port", "method", "path"),
    [
        ("triton_metrics", "POST", "/v2/repository/models/evil/load"),
        ("triton_metrics", "POST", "/v2/models/census/infer"),
        ("door", "POST", "/v2/repository/models/evil/load"),
        ("door", "POST", "/v2/repository/models/census/unload"),
        ("door", "POST", "/v2/repository/index"),
        ("door", "POST", "/drain_listeners"),
        ("door", "POST", "/quitquitquit"),
    ],
)
def test_no_port_takes_a_model_or_closes_the_door(
    stack: StackUnderTest, port: str, method: str, path: str
) -> None:
    before = {name: stack.pid(name) for name in ("triton", "envoy")}
    connection = http.client.HTTPConnection("127.0.0.1", stack.stack.file.ports[port], timeout=5)
    connection.request(method, path, b'{"parameters":{"config":"{}"}}')
    assert connection.getresponse().status >= 400
    connection.close()
    stack.ready("triton", "envoy")
    assert {name: stack.pid(name) for name in before} == before, "it is not one that was started again"
