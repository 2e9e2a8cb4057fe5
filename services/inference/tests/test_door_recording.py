"""Nothing that a caller sends gets out of the text that records it: on a real Envoy."""

from __future__ import annotations

import http.server
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from subprocess import Popen
from typing import Any

import grpc
import orjson
import pytest
from real_envoy import prepared, running

from penstock.serving.records import PREDICTION_HEADER
from penstock.testing.wait import until
from penstock_inference.door.door import Backends, Door
from penstock_inference.record.spool import LEAVE_AFTER_S

pytestmark = pytest.mark.process

SEED = 20_261_129
HEADERS = {
    "traceparent": "traceparent",
    "content-encoding": "request_encoding",
    "grpc-encoding": "request_encoding",  # over gRPC alone, as content-encoding over HTTP alone
    "inference-header-content-length": "request_header_length",
}
"""Member of the log's line by the header that it records."""
HTTP_PATH = b"/v2/models/census/infer"
GRPC_PATH = b"/inference.GRPCInferenceService/ModelInfer"
FORGERY = b'","status":200,"id":"forged","grpc_status":0,"a":"'


@dataclass(frozen=True)
class Answer:
    status: int
    identity: str | None


class Answering(http.server.BaseHTTPRequestHandler):
    """Backend behind the door: 200 to everything."""

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


class EveryMethod(grpc.GenericRpcHandler):
    """Backend behind the door over gRPC: an empty message to everything."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    behind = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=behind.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{behind.server_address[1]}"
    over_grpc = grpc.server(ThreadPoolExecutor(2))
    over_grpc.add_generic_rpc_handlers((EveryMethod(),))
    grpc_address = f"127.0.0.1:{over_grpc.add_insecure_port('127.0.0.1:0')}"
    over_grpc.start()
    backends = Backends(grpc_address, grpc_address, address)
    door = prepared(tmp_path_factory.mktemp("envoy"), backends, {"ingest": address})
    yield door
    behind.shutdown()
    over_grpc.stop(None)


@pytest.fixture(scope="module", autouse=True)
def envoy(door: Door) -> Iterator[Popen[bytes]]:
    with running(door) as process:
        until(lambda: served(door), what="the door answers")
        yield process


def served(door: Door) -> bool:
    try:
        return call(door).status == 200
    except OSError:
        return False


def call(
    door: Door, headers: dict[str, bytes] | None = None, query: bytes = b"", path: bytes = HTTP_PATH
) -> Answer:
    """Sends one inference as these bytes, which no client would let through."""
    host, _, port = door.listen.rpartition(":")
    lines = [
        b"POST " + path + query + b" HTTP/1.1",
        b"host: door",
        b"content-length: 2",
        *([b"content-type: application/grpc"] if path == GRPC_PATH else []),
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


def test_the_log_stays_open_and_a_renamed_one_is_left_soon(door: Door, envoy: Popen[bytes]) -> None:
    """Opening it for each line costs more than writing the line."""

    def is_open() -> bool:
        return str(door.log.resolve()) in map(target, Path(f"/proc/{envoy.pid}/fd").iterdir())

    def target(file: Path) -> str | None:
        with suppress(FileNotFoundError):  # a connection that was closed since
            return os.readlink(file)
        return None

    recorded(door, call(door))
    assert is_open()
    aside = door.logs / "aside.log"
    door.log.rename(aside)
    renamed = time.monotonic()
    while not door.log.exists():
        late = time.monotonic() - renamed > LEAVE_AFTER_S / 2
        call(door)
        assert door.log.exists() or not late, "what is recorded now nobody reads"
    assert door.log.stat().st_mode & 0o777 == 0o600
    assert is_open()
    aside.unlink()


@pytest.mark.parametrize("name", HEADERS)
def test_every_byte_of_a_header_is_recorded_as_it_came(door: Door, name: str) -> None:
    before = len(entries(door))
    over_grpc = name == "grpc-encoding"
    path = GRPC_PATH if over_grpc else HTTP_PATH
    values = [b"a" + bytes([byte]) + FORGERY for byte in range(256) if byte not in b"\r\n"]  # these end it
    with ThreadPoolExecutor(32) as pool:
        answers = pool.map(lambda value: call(door, {name: value}, path=path), values)
        sent = {
            answer.identity: value
            for answer, value in zip(answers, values, strict=True)
            if answer.status == 200
        }
    lines = entries(door)[before:]
    assert len(sent) > 220  # Envoy refuses control characters by itself
    assert {line["id"] for line in lines} >= sent.keys()
    for line in lines:
        if line["id"] in sent:
            assert line[HEADERS[name]].encode("latin-1") == sent[line["id"]]
            assert line["protocol"] == ("grpc" if over_grpc else "http")
            assert (line["grpc_status"] is None) is not over_grpc


def test_every_byte_of_the_path_is_recorded_as_it_came(door: Door) -> None:
    for byte in range(256):
        query = b"?a" + bytes([byte]) + FORGERY
        answer = call(door, query=query)
        if answer.status == 200:
            seen = query.partition(b"\n")[0]  # which ends a path of HTTP/0.9
            assert recorded(door, answer)["path"].encode("latin-1").endswith(seen)


@pytest.mark.parametrize("name", HEADERS)
def test_a_long_header_is_cut_and_means_nothing(door: Door, name: str) -> None:
    """Anybody may send one of 50 kB, and each of its bytes could be six in the log."""
    path = GRPC_PATH if name == "grpc-encoding" else HTTP_PATH
    at_most = b"1" * 1024
    answer = call(door, {name: at_most}, path=path)
    assert recorded(door, answer)[HEADERS[name]].encode() == at_most
    answer = call(door, {name: b"1" * 50_000}, path=path)
    assert recorded(door, answer)[HEADERS[name]].encode() == at_most + b"~"


def test_a_long_path_is_cut(door: Door) -> None:
    answer = call(door, query=b"?" + b'"' * 7_000)
    assert len(recorded(door, answer)["path"]) == 1025


def test_a_version_has_no_noughts_before_it(door: Door) -> None:
    """Triton passes over a thousand of them; cut within them, the path would name no model."""
    before = len(entries(door))
    assert call(door, path=b"/v2/models/census/versions/" + b"1".zfill(1024) + b"/infer").status == 404
    assert len(entries(door)) == before
    widest = b"/v2/models/" + b"a" * 63 + b"/versions/" + b"9" * 19 + b"/infer"
    answer = call(door, path=widest, query=b"?" + b"a" * 7_000)
    assert recorded(door, answer)["path"].encode().startswith(widest + b"?")


def test_each_protocol_has_its_own_header_of_the_bodys_encoding(door: Door) -> None:
    """One that the reader of the body does not know must not tell the record how to read it."""
    headers = {"content-encoding": b"gzip", "grpc-encoding": b"deflate"}
    assert recorded(door, call(door, headers))["request_encoding"] == "gzip"
    assert recorded(door, call(door, {"grpc-encoding": b"deflate"}))["request_encoding"] is None
    assert recorded(door, call(door, headers, path=GRPC_PATH))["request_encoding"] == "deflate"


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
