"""Nothing that a caller sends gets out of the text that records it: on a real Envoy."""

from __future__ import annotations

import http.server
import random
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any

import orjson
import pytest

from penstock.stack import envoy
from penstock.testing.broker import free_ports
from penstock.testing.wait import until
from penstock_inference.door.door import PREDICTION_HEADER, Door, TritonAddresses
from penstock_inference.door.files import prepare

pytestmark = pytest.mark.process

SEED = 20_261_129
HEADERS = {
    "traceparent": "traceparent",
    "content-encoding": "request_encoding",
    "grpc-encoding": "request_encoding",
    "inference-header-content-length": "request_header_length",
}
"""Member of the log's line by the header that it records."""
FORGERY = b'","status":200,"id":"forged","grpc_status":0,"a":"'


@dataclass(frozen=True)
class Answer:
    status: int
    identity: str | None


class Answering(http.server.BaseHTTPRequestHandler):
    """Whoever is behind the door: 200 to everything."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    behind = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=behind.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{behind.server_address[1]}"
    listen, admin = free_ports(2)
    folder = tmp_path_factory.mktemp("envoy")
    door = Door(
        folder,
        f"127.0.0.1:{listen}",
        f"127.0.0.1:{admin}",
        TritonAddresses(address, address),
        {"ingest": address},
    )
    prepare(door)
    with (folder / "envoy.txt").open("wb") as log:
        process = subprocess.Popen(envoy.command(folder), stdout=log, stderr=log)
    try:
        until(lambda: served(door), within=20, what="the door answers")
        yield door
    finally:
        process.kill()
        process.wait()
        behind.shutdown()


def served(door: Door) -> bool:
    try:
        return call(door).status == 200
    except OSError:
        return False


def call(door: Door, headers: dict[str, bytes] | None = None, query: bytes = b"") -> Answer:
    """Sends one inference as these bytes, which no client would let through."""
    host, _, port = door.listen.rpartition(":")
    lines = [
        b"POST /v2/models/census/infer" + query + b" HTTP/1.1",
        b"host: door",
        b"content-length: 2",
        b"connection: close",
        *(name.encode() + b": " + value for name, value in (headers or {}).items()),
    ]
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n{}")
        response = HTTPResponse(connection)
        response.begin()
        response.read()
    return Answer(response.status, response.getheader(PREDICTION_HEADER))


def entries(door: Door) -> list[dict[str, Any]]:
    """Reads the log's lines. Raises where one is no JSON."""
    return [orjson.loads(line) for line in door.log.read_bytes().splitlines()]


def recorded(door: Door, answer: Answer) -> dict[str, Any]:
    (entry,) = [entry for entry in entries(door) if entry["id"] == answer.identity]
    return entry


@pytest.mark.parametrize("name", HEADERS)
def test_every_byte_of_a_header_is_recorded_as_it_came(door: Door, name: str) -> None:
    before = len(entries(door))
    sent = {}
    for byte in set(range(256)) - set(b"\r\n"):  # which end a header
        value = b"a" + bytes([byte]) + FORGERY
        answer = call(door, {name: value})
        if answer.status == 200:
            sent[answer.identity] = value
    lines = entries(door)[before:]
    assert len(sent) > 220  # Envoy refuses control characters by itself
    assert {line["id"] for line in lines} >= sent.keys()
    for line in lines:
        if line["id"] in sent:
            assert line[HEADERS[name]].encode("latin-1") == sent[line["id"]]
            assert (line["protocol"], line["grpc_status"]) == ("http", None)


def test_every_byte_of_the_path_is_recorded_as_it_came(door: Door) -> None:
    for byte in range(256):
        query = b"?a" + bytes([byte]) + FORGERY
        answer = call(door, query=query)
        if answer.status == 200:
            assert recorded(door, answer)["path"].encode("latin-1").endswith(query)


def test_random_headers_and_paths_forge_no_line(door: Door) -> None:
    rng = random.Random(SEED)
    before, answered = len(entries(door)), 0
    pieces = [FORGERY, b'"', b"\\", b"]", b"\\u0022", b"}", b"\xe2\x80\xa8", b"\x7f", b"\t", b"%22", b"'"]
    for _ in range(3000):
        value = b"".join(rng.choice(pieces) if rng.random() < 0.5 else rng.randbytes(2) for _ in range(8))
        value = value.translate(None, b"\r\n\0").strip()
        answered += call(door, dict.fromkeys(HEADERS, value)).status == 200
    lines = entries(door)[before:]
    assert answered > 50
    assert sum(line["status"] == 200 for line in lines) == answered
    assert "forged" not in {line["id"] for line in lines}
