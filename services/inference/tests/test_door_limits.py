"""Clients that send much, stop in the middle or do not read: the door stays up, within its memory, and
answers the others. On a real Envoy, with its own documents; only its times are shortened.
"""

from __future__ import annotations

import http.client
import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import psutil
import pytest
import real_envoy

from penstock.testing.wait import until
from penstock_inference.door.door import Backends, Door
from penstock_inference.door.limits import HEAD_S, IDLE_S, STILL_S

pytestmark = pytest.mark.process

CONTAINER_BYTES = 512 << 20  # of Envoy, in docker-compose.yml
LARGE = 60 << 20
UPLOADS = 14
ANSWER_BYTES = 6 << 20
SHORT_S = 2  # instead of each time of `limits`
HEAD = b"POST /v2/models/census/infer%s HTTP/1.1\r\nhost: door\r\ncontent-length: %d\r\n\r\n"


class Answering(http.server.BaseHTTPRequestHandler):
    """Backend behind the door; a path with `?large` has a large answer."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_POST(self) -> None:
        left = int(self.headers["content-length"])
        while left:
            left -= len(self.rfile.read(min(left, 1 << 20)))
        size = ANSWER_BYTES if self.path.endswith("?large") else 2
        self.send_response(200)
        self.send_header("content-length", str(size))
        self.end_headers()
        self.wfile.write(bytes(size))

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@dataclass(frozen=True)
class Running:
    door: Door
    process: psutil.Process

    def connect(self) -> socket.socket:
        host, _, port = self.door.listen.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=30)

    def ask(self, version: str = "1.1") -> tuple[int, bytes]:
        with self.connect() as connection:
            connection.sendall((HEAD % (b"", 2)).replace(b"HTTP/1.1", f"HTTP/{version}".encode()) + b"{}")
            return answer(connection)


def answer(connection: socket.socket) -> tuple[int, bytes]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, response.read()


@pytest.fixture
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    behind = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=behind.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{behind.server_address[1]}"
    backends = Backends(address, address, address)
    door = real_envoy.prepared(tmp_path_factory.mktemp("envoy"), backends, {"ingest": address})
    for name in ("envoy.json", "rds.json"):
        text = (door.folder / name).read_text()
        for seconds in (HEAD_S, STILL_S, IDLE_S):
            text = text.replace(f'"{seconds}s"', f'"{SHORT_S}s"')
        (door.folder / name).write_text(text)
    with real_envoy.running(door) as process:
        made = Running(door, psutil.Process(process.pid))
        until(lambda: serves(made), what="the door answers")
        yield made
    behind.shutdown()


def serves(running: Running) -> bool:
    try:
        return running.ask()[0] == 200
    except OSError:
        return False


def test_many_large_uploads_do_not_end_it(running: Running) -> None:
    """Half of them stop before their end."""
    statuses: list[int] = []

    def upload(number: int) -> None:
        left = LARGE - (1 << 16) * (number % 2)
        with running.connect() as connection:
            connection.sendall(HEAD % (b"", LARGE))
            while left > 0:
                connection.sendall(bytes(min(left, 1 << 16)))
                left -= 1 << 16
            statuses.append(answer(connection)[0])

    largest, answered = 0, 0
    with ThreadPoolExecutor(UPLOADS) as pool:
        sent = [pool.submit(upload, number) for number in range(UPLOADS)]
        while not all(one.done() for one in sent):
            largest = max(largest, running.process.memory_info().rss)
            answered += serves(running)
    assert largest < CONTAINER_BYTES, f"{largest >> 20} MiB"
    assert answered > 0
    assert set(statuses) <= {200, 408, 500, 503, 504}
    until(lambda: serves(running), what="the door answers afterwards")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(upload, 0).result()
    assert statuses[-1] == 200  # one alone passes


def test_what_is_not_finished_is_ended(running: Running) -> None:
    begun = {
        "nothing": b"",
        "half a head": b"POST /v2/models/census/infer HTTP/1.1\r\nhost: d",
        "half a body": HEAD % (b"", 1000) + b"{",
    }
    with ExitStack() as stack:
        connections = {name: stack.enter_context(running.connect()) for name in begun}
        for name, connection in connections.items():
            connection.sendall(begun[name])
        began = time.monotonic()
        for name, connection in connections.items():
            while connection.recv(1 << 16):
                pass  # perhaps it is told why
            assert time.monotonic() - began < 5 * SHORT_S, name


def test_who_does_not_read_is_ended(running: Running) -> None:
    """They could hold 1.2 GB."""
    with ExitStack() as stack:
        connections = []
        for _ in range(200):
            try:
                connection = stack.enter_context(running.connect())
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.sendall(HEAD % (b"?large", 2) + b"{}")
                connections.append(connection)
            except OSError:
                pass  # it is refused
            assert running.process.memory_info().rss < CONTAINER_BYTES
        assert running.process.is_running()
        until(lambda: serves(running), within=10 * SHORT_S, what="the others are answered")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_errors_are_the_protocols_own(running: Running, version: str) -> None:
    assert running.ask(version)[0] == 200
    for path in (b"/v2/repository/index", b"/v2/models/stats", b"/"):
        with running.connect() as connection:
            connection.sendall(
                b"POST %s HTTP/%s\r\nhost: d\r\ncontent-length: 0\r\n\r\n" % (path, version.encode())
            )
            status, body = answer(connection)
        assert status in (403, 404)
        assert json.loads(body).keys() == {"error"}
