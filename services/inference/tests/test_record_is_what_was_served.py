"""Whatever is sent, over HTTP or gRPC: it is refused, or its record is what the model saw. A model that
answers its own inputs tells what that was. Nothing that is sent ends a program.
"""

from __future__ import annotations

import gzip
import http.client
import itertools
import json
import math
import random
import re
import struct
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from tritonclient.grpc import service_pb2

from penstock.serving.protocol.http_response import read_response
from penstock.serving.protocol.tensors import grpc_response, inflate
from penstock.serving.records import PREDICTION_HEADER
from penstock_inference.door.door import KEPT_BYTES
from penstock_inference.record.predictions import Unattributed, read_line

if TYPE_CHECKING:
    from echo import Echoing

pytestmark = pytest.mark.process

SEED = 20_261_129
FEW, MANY = 2_000, 100_000
PATH = "/v2/models/echo/infer"
METHOD = "/inference.GRPCInferenceService/ModelInfer"
NUMBERS = [0.0, -0.0, 1.5, 2**53 + 1, -1.7e308, 1.7976931348623157e308, 5e-324, math.nan, math.inf, -math.inf]
TEXTS = ["", "true", "True", "false", "x" * 200, "ä", "\0", "\u2028", '"', "\\", "😀"]
HEADERS = ["traceparent", "tracestate", PREDICTION_HEADER, "x-request-id", "x-forwarded-for", "authorization"]
SIGNS = [chr(code) for code in range(32, 127)]
FRAME_BYTES = 5  # of gRPC, before a message
GATEWAY_BYTES = 1 << 30  # of its container in docker-compose.yml
NO_HEADERS: dict[str, str] = {}
Seen = dict[str, list[Any]]


class Sender:
    """Sends to the door; keeps what each answered call saw, by the prediction's id."""

    def __init__(self, served: Echoing) -> None:
        self.served = served
        self.seen: dict[str, tuple[Seen, bytes, int]] = {}
        self.refused = 0
        self._begins = served.door.log.stat().st_size  # after what other tests asked
        self._connection = http.client.HTTPConnection(served.door.listen, timeout=30)
        self._channel = grpc.insecure_channel(served.door.listen)
        self._infer = self._channel.unary_unary(METHOD)

    def http(self, body: bytes, headers: dict[str, str], path: str = PATH) -> None:
        try:
            self._connection.request("POST", path, body, headers)
            answer = self._connection.getresponse()
            data = answer.read()
        except (http.client.HTTPException, OSError):
            self._connection.close()  # Envoy has refused it outright
            self.refused += 1
            return
        # A number that came in a binary tensor may not go back as JSON.
        assert answer.status < 500 or b"JSON does not have" in data, (answer.status, data, body, headers)
        if answer.status != 200:
            assert json.loads(data).keys() == {"error"}
            self.refused += 1
            return
        length = answer.getheader("inference-header-content-length")
        found = read_response(data, int(length) if length else None)
        read = inflate(body, headers.get("content-encoding"))
        self._keep(str(answer.getheader(PREDICTION_HEADER)), found.tensors, body, len(read))

    def grpc(
        self, message: bytes, compression: grpc.Compression | None, metadata: dict[str, str] = NO_HEADERS
    ) -> None:
        try:
            data, call = self._infer.with_call(
                message, timeout=30, compression=compression, metadata=[*metadata.items()]
            )
        except grpc.RpcError as refusal:
            said = refusal.code().name, refusal.details()
        else:
            told = dict(call.initial_metadata())
            size = len(message) + (0 if compression else FRAME_BYTES)
            self._keep(str(told[PREDICTION_HEADER]), grpc_response(data).tensors, message, size)
            return
        # Triton's word for a name that is not UTF-8.
        unparsed = said == ("INTERNAL", "Unable to parse request")
        assert unparsed or said[0] in ("INVALID_ARGUMENT", "NOT_FOUND"), (said, message)
        self.refused += 1

    def _keep(self, identity: str, tensors: dict[str, Any], sent: bytes, size: int) -> None:
        # `size`: bytes of the body, or of what it is when it is decompressed.
        seen: Seen = {}
        for tensor, fields in (("seen_numbers", "ab"), ("seen_strings", "cde")):
            if tensor in tensors:
                for column, field in enumerate(fields):
                    seen[field] = [plain(field, one) for one in tensors[tensor].values[column :: len(fields)]]
        self.seen[identity] = (seen, sent, size)

    def check(self) -> int:
        """Compares every record with what the model saw; returns how many there are."""
        found = 0
        with self.served.door.log.open("rb") as log:
            log.seek(self._begins)
            for line in log:
                try:
                    _, prediction = read_line(
                        line, lambda pipeline, _: layout() if pipeline == "echo" else None
                    )
                except Unattributed:
                    continue  # of a refused call, whose model cannot be read
                if prediction["id"] not in self.seen:
                    assert prediction["status"] != "OK"
                    continue
                seen, sent, size = self.seen.pop(prediction["id"])
                inputs = prediction["inputs"]
                found += 1
                if size > KEPT_BYTES:
                    assert inputs is None
                    assert prediction["undecoded"] in (
                        f"a request of {size} bytes is not kept",
                        f"a request of over {KEPT_BYTES} bytes is not kept",  # it was compressed
                    )
                    continue
                assert inputs is not None, (prediction, sent)
                assert {field: typed(inputs[field]) for field in seen} == {
                    field: typed(values) for field, values in seen.items()
                }, sent
        assert self.seen == {}, "answered, and not recorded"
        assert self.served.all_run()
        return found


def layout() -> Any:
    from echo import LAYOUT

    return LAYOUT


def typed(values: list[Any]) -> list[tuple[type, str]]:
    # 1 is not True, and 0.0 not -0.0.
    return [(type(value), repr(value)) for value in values]


def plain(field: str, value: Any) -> Any:
    if field in "ab":
        number = float(value)
        return None if math.isnan(number) else number if math.isfinite(number) else str(number)
    if field == "d" and value in ("true", "false"):
        return value == "true"
    return value or None


# -- over HTTP -------------------------------------------------------------------------------------


def http_body(rng: random.Random) -> tuple[bytes, dict[str, str]]:
    rows = rng.choice([1, 1, 1, 2, 3])
    numbers = [rng.choice(NUMBERS[:7]) for _ in range(2 * rows)]
    texts = [rng.choice(TEXTS) for _ in range(3 * rows)]
    inputs: list[dict[str, Any]] = [
        {"name": "numbers", "shape": [rows, 2], "datatype": "FP64", "data": numbers},
        {"name": "strings", "shape": [rows, 3], "datatype": "BYTES", "data": texts},
    ]
    rest = b""
    for one, raw in zip(inputs, (doubles(numbers), strings(texts)), strict=True):
        if rng.random() < 0.3:
            del one["data"]
            one["parameters"] = {"binary_data_size": len(raw)}
            rest += raw
    if rng.random() < 0.2:
        inputs.reverse()
    said: dict[str, Any] = {"inputs": inputs}
    if rng.random() < 0.5:
        said["parameters"] = {"binary_data_output": True}
    if rng.random() < 0.5:
        for _ in range(rng.choice([1, 1, 2])):
            spoil(rng, said)
    head = json.dumps(said, ensure_ascii=rng.random() < 0.5).encode()
    if rng.random() < 0.4:
        head = mutated(rng, head)
    headers = {"content-type": "application/json"}
    if rest or rng.random() < 0.1:
        headers["inference-header-content-length"] = str(len(head))
    if rng.random() < 0.05:
        headers["inference-header-content-length"] = rng.choice(
            ["0", "1", "-1", "+9", " 9", "9,9", "x", "1e2"]
        )
    body = head + rest
    if rng.random() < 0.2:
        name, pack = rng.choice(
            [("gzip", gzip.compress), ("deflate", zlib.compress), ("br", bytes), ("identity", bytes)]
        )
        headers["content-encoding"] = name
        body = pack(body)
        if rng.random() < 0.3:
            body = mutated(rng, body)
    if rng.random() < 0.1:
        headers["grpc-encoding"] = "gzip"
    return body, headers


PIECES = [
    (b"1.5", b"NaN"),
    (b"0.0", b"null"),
    (b"NaN", b"null"),
    (b"1.5", b"1e999"),
    (b"1.5", b"Infinity"),
    (b"0.0", b"true"),
    (b"true", b"True"),
    (b'"data"', b'"shape"'),
    (b"FP64", b"FP32"),
    (b"FP64", b"INT64"),
    (b"FP64", b"BF16"),
    (b"[", b"[["),
    (b"]", b"]]"),
    (b", ", b",,"),
    (b"{", b"\xef\xbb\xbf{"),
    (b'"', b'\\"'),
    (b'"', b"'"),
    (b"1", b"1099511627776"),
    (b'""', b'"\\ud800"'),
    (b"}", b'}, "inputs": []}'),
    (b"}", b"} "),
    (b"{", b"/**/{"),
]


def mutated(rng: random.Random, data: bytes) -> bytes:
    kind = rng.random()
    at = rng.randrange(len(data) + 1)
    if kind < 0.5:
        old, new = rng.choice(PIECES)
        where = data.find(old, at)
        return data[:where] + new + data[where + len(old) :] if where >= 0 else data.replace(old, new, 1)
    if kind < 0.75:
        return data[:at] + rng.randbytes(rng.choice([0, 1, 1, 4])) + data[at + rng.choice([0, 1, 2]) :]
    return data[:at] if kind < 0.85 else data[:at] + data[at // 2 :]


def spoil(rng: random.Random, said: dict[str, Any]) -> None:
    tensor = rng.choice(said["inputs"])
    data = tensor.get("data", [])
    columns = 2 if tensor["name"] == "numbers" else 3
    changes: list[Callable[[], object]] = [
        lambda: tensor.update(
            shape=rng.choice([[0, 2], [1 << 40, 2], [-1, -2], [2], [], [1, 1, 2], [1.0, 2], [True, 2]])
        ),
        lambda: tensor.update(data=[data[at : at + columns] for at in range(0, len(data), columns)]),
        lambda: tensor.update(data=[[value] for value in data]),
        lambda: tensor.update(data=[*data, *data]),
        lambda: tensor.update(data=[rng.choice([None, True, "1", 1, [], {}, 2**70]) for _ in data]),
        lambda: tensor.update(parameters=rng.choice([{"binary_data_size": 16}, {"x": 1}, {}, None])),
        lambda: tensor.update(datatype=rng.choice(["FP32", "INT64", "BOOL", "BYTES", "", "fp64", 1])),
        lambda: tensor.update(name=rng.choice(["numbers", "strings", "", 1])),
        lambda: said.update(outputs=[{"name": rng.choice(["seen_numbers", "seen_strings", "nope"])}]),
        lambda: said.update(outputs=[{"name": "seen_strings", "parameters": {"classification": 1}}]),
        lambda: said.update(outputs=[{"name": "seen_numbers", "parameters": {"binary_data": True}}]),
        lambda: said.update(
            parameters=rng.choice([{"sequence_id": 1}, {"binary_data_output": 1}, {"priority": 1}])
        ),
        lambda: said.update(id=rng.choice(["7", 7, "x" * 1000])),
        lambda: said["inputs"].append(dict(tensor)),
        lambda: said["inputs"].pop(),
    ]
    if said["inputs"]:
        rng.choice(changes)()
    said["inputs"] = said["inputs"] or [{}]


def doubles(numbers: list[float]) -> bytes:
    return struct.pack(f"<{len(numbers)}d", *numbers)


def strings(texts: list[str]) -> bytes:
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)


# -- over gRPC -------------------------------------------------------------------------------------


def grpc_message(rng: random.Random) -> bytes:
    rows = rng.choice([1, 1, 1, 2, 3])
    numbers = [rng.choice(NUMBERS) for _ in range(2 * rows)]
    texts = [rng.choice(TEXTS) for _ in range(3 * rows)]
    request = service_pb2.ModelInferRequest(model_name="echo")
    request.inputs.add(name="numbers", datatype="FP64", shape=[rows, 2])
    request.inputs.add(name="strings", datatype="BYTES", shape=[rows, 3])
    if rng.random() < 0.7:
        request.raw_input_contents.extend([doubles(numbers), strings(texts)])
    else:
        request.inputs[0].contents.fp64_contents.extend(numbers)
        request.inputs[1].contents.bytes_contents.extend(text.encode() for text in texts)
    if rng.random() < 0.5:
        spoil_message(rng, request)
    data = bytes(request.SerializeToString())
    if rng.random() < 0.3:
        at = rng.randrange(len(data) + 1)
        data = data[:at] + rng.randbytes(rng.choice([0, 1, 1, 3])) + data[at + rng.choice([0, 1, 2]) :]
    if rng.random() < 0.1:
        more = service_pb2.ModelInferRequest(model_name=rng.choice(["echo", "nope"]), id="x")
        spoil_message(rng, more)
        data += more.SerializeToString()
    return data


def spoil_message(rng: random.Random, request: Any) -> None:
    tensor = rng.choice(request.inputs) if request.inputs else request.inputs.add()
    raw = request.raw_input_contents
    changes: list[Callable[[], object]] = [
        lambda: tensor.shape.extend([rng.choice([0, 1, 2, 1 << 40])]),
        lambda: tensor.MergeFrom(type(tensor)(shape=[rng.choice([1, 1 << 40, -1])])),
        lambda: tensor.ClearField("shape"),
        lambda: tensor.shape.insert(0, rng.choice([1 << 40, -1, 0, 1 << 62])),
        lambda: setattr(tensor, "datatype", rng.choice(["FP32", "INT64", "BYTES", "", "BF16"])),
        lambda: setattr(tensor, "name", rng.choice(["numbers", "strings", ""])),
        lambda: tensor.parameters["binary_data_size"].MergeFromString(b"\x10\x05"),
        lambda: tensor.parameters["shared_memory_region"].MergeFromString(b"\x1a\x01x"),
        lambda: tensor.contents.fp64_contents.append(1.0),
        lambda: tensor.contents.bytes_contents.append(rng.choice([b"x", b"\xff"])),
        lambda: raw.append(rng.choice([b"", b"x", b"\0" * 16])),
        lambda: raw.pop() if raw else None,
        lambda: raw.append(raw.pop()[:-1]) if raw else None,
        lambda: raw.append(raw.pop() + b"\1\0\0\0\xff") if raw else None,
        lambda: request.parameters[rng.choice(["x", "penstock_events", "sequence_id"])].MergeFromString(
            b"\x1a\x01x"
        ),
        lambda: request.outputs.add(name=rng.choice(["seen_numbers", "seen_strings", "nope"])),
        lambda: (
            request.outputs.add(name="seen_strings").parameters["classification"].MergeFromString(b"\x10\x01")
        ),
        lambda: (
            request.outputs.add(name="seen_numbers").parameters["binary_data"].MergeFromString(b"\x08\x01")
        ),
        lambda: setattr(request, "id", "x" * rng.choice([1, 1000])),
        lambda: setattr(request, "model_version", rng.choice(["1", "01", "2", "x", "-1"])),
    ]
    rng.choice(changes)()


def odd_headers(rng: random.Random) -> dict[str, str]:
    """Such as the door logs or passes on; seldom any."""
    if rng.random() < 0.7:
        return NO_HEADERS
    return {rng.choice(HEADERS): "".join(rng.choices(SIGNS, k=rng.choice([0, 1, 36, 55, 300])))}


def send(sender: Sender, rng: random.Random, count: int) -> None:
    compressions = [None, None, None, grpc.Compression.Gzip, grpc.Compression.Deflate]
    for _ in range(count):
        if rng.random() < 0.6:
            body, headers = http_body(rng)
            sender.http(body, headers | odd_headers(rng))
        else:
            sender.grpc(grpc_message(rng), rng.choice(compressions), odd_headers(rng))


def test_what_was_served_is_what_is_recorded(echo_served: Echoing) -> None:
    sender = Sender(echo_served)
    send(sender, random.Random(SEED), FEW)
    answered = sender.check()
    assert answered > FEW / 5
    assert sender.refused > FEW / 5


def test_a_long_call_with_what_is_no_text_reaches_no_batch(echo_served: Echoing) -> None:
    """A text that is not UTF-8 fails the graph, and with it everybody's rows in the batch."""
    request = service_pb2.ModelInferRequest(model_name="echo")
    request.inputs.add(name="numbers", datatype="FP64", shape=[1, 2])
    request.inputs.add(name="strings", datatype="BYTES", shape=[1, 3])
    request.raw_input_contents.extend([doubles([1.0, 2.0]), strings(["a", "b", "x" * KEPT_BYTES])])
    sent = request.SerializeToString()
    with grpc.insecure_channel(echo_served.door.listen) as channel:
        infer = channel.unary_unary(METHOD)
        (found,) = grpc_response(infer(sent, timeout=30)).tensors["seen_strings"].values[2:]
        assert found == "x" * KEPT_BYTES
        with pytest.raises(grpc.RpcError) as refused:
            infer(sent[:-1] + b"\xff", timeout=30)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "a text is not UTF-8" in refused.value.details(), "says the gateway"


def filled(size: int, make: Callable[[int], bytes]) -> bytes:
    """A body of `size` bytes, near KEPT_BYTES. `make` takes the bytes of its longest text."""
    body = make(size - (len(make(KEPT_BYTES)) - KEPT_BYTES))
    assert len(body) == size
    return body


def long_message(texts: list[str], end: bytes) -> Callable[[int], bytes]:
    def make(fill: int) -> bytes:
        request = service_pb2.ModelInferRequest(model_name="echo")
        request.inputs.add(name="numbers", datatype="FP64", shape=[1, 2])
        request.inputs.add(name="strings", datatype="BYTES", shape=[1, 3])
        last = struct.pack("<I", fill) + b"x" * (fill - len(end)) + end
        request.raw_input_contents.extend([doubles([1.5, 0.0]), strings(texts) + last])
        return bytes(request.SerializeToString())

    return make


def long_body(texts: list[str], end: bytes) -> Callable[[int], bytes]:
    said = {
        "inputs": [
            {"name": "numbers", "shape": [1, 2], "datatype": "FP64", "data": [1.5, 0.0]},
            {"name": "strings", "shape": [1, 3], "datatype": "BYTES", "data": [*texts, "?"]},
        ]
    }
    head, tail = json.dumps(said).encode().split(b"?")
    return lambda fill: head + b"x" * (fill - len(end)) + end + tail


ENDS = {"ASCII": b"x", "beyond ASCII": "ä".encode(), "no text": b"\xff"}


@pytest.mark.parametrize("end", ENDS)
def test_of_any_length_around_what_is_kept(echo_served: Echoing, end: str) -> None:
    """A body of up to 1 MiB, decompressed, is recorded whole, a longer one as a call without inputs;
    what is no text is refused on either side.
    """
    sender, rng, calls = Sender(echo_served), random.Random(SEED), 0
    for beyond in (-3, -2, -1, 0, 1, 2, 3, *rng.sample(range(-9_000, 9_000), 4)):
        texts = rng.choices(TEXTS[:-5], k=2)
        sender.grpc(filled(KEPT_BYTES + beyond - FRAME_BYTES, long_message(texts, ENDS[end])), None)
        body = filled(KEPT_BYTES + beyond, long_body(texts, ENDS[end]))
        sender.http(body, {})
        message = filled(KEPT_BYTES + beyond, long_message(texts, ENDS[end]))
        sender.grpc(message, grpc.Compression.Gzip)
        sender.http(gzip.compress(body), {"content-encoding": "gzip"})
        calls += 4
    answered = sender.check()
    assert (answered, sender.refused) == ((0, calls) if end == "no text" else (calls, 0))


def many_texts(rows: int) -> service_pb2.ModelInferRequest:
    """More rows than the model takes: what is refused was read first."""
    made = service_pb2.ModelInferRequest(model_name="echo")
    made.inputs.add(name="numbers", datatype="FP64", shape=[rows, 2])
    made.inputs.add(name="strings", datatype="BYTES", shape=[rows, 3])
    made.raw_input_contents.extend([bytes(16 * rows), strings(["a"]) * (3 * rows)])
    return made


def over_http(message: service_pb2.ModelInferRequest) -> bytes:
    inputs = [
        {
            "name": one.name,
            "datatype": one.datatype,
            "shape": list(one.shape),
            "parameters": {"binary_data_size": len(raw)},
        }
        for one, raw in zip(message.inputs, message.raw_input_contents, strict=True)
    ]
    return json.dumps({"inputs": inputs}).encode() + b"".join(message.raw_input_contents)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_while_a_long_call_is_read_others_are_answered(echo_served: Echoing, protocol: str) -> None:
    """Over HTTP it is short as it comes, and long when it is decompressed."""
    long = many_texts(1_000_000)
    body, rest = over_http(long), sum(map(len, long.raw_input_contents))
    headers = {"content-encoding": "gzip", "inference-header-content-length": str(len(body) - rest)}
    packed = gzip.compress(body, 1)
    assert len(packed) < KEPT_BYTES

    def send_long() -> None:
        if protocol == "grpc":
            with pytest.raises(grpc.RpcError, match="batch-size"):
                infer(long.SerializeToString(), timeout=60)
        else:
            connection = http.client.HTTPConnection(echo_served.door.listen, timeout=60)
            connection.request("POST", PATH, packed, headers)
            assert b"batch-size" in connection.getresponse().read()

    short = many_texts(1).SerializeToString()
    with grpc.insecure_channel(echo_served.door.listen) as channel, ThreadPoolExecutor(1) as pool:
        infer = channel.unary_unary(METHOD)
        began = time.monotonic()
        sent, answers = pool.submit(send_long), [began]
        while not sent.done():
            infer(short, timeout=60, compression=grpc.Compression.Gzip)  # so the gateway reads it, too
            answers.append(time.monotonic())
        sent.result()
    longest = max(after - before for before, after in itertools.pairwise(answers))
    assert longest < (answers[-1] - began) / 3


@pytest.mark.parametrize("protocol", [pytest.param("grpc", marks=pytest.mark.slow), "http"])
def test_many_that_grow_large_do_not_end_it(echo_served: Echoing, protocol: str) -> None:
    """One of 50 MB is 50 kB when it is compressed."""
    large = service_pb2.ModelInferRequest(model_name="echo", raw_input_contents=[bytes(50 << 20)])
    large.inputs.add(name="numbers", datatype="FP64", shape=[25 << 17, 2])
    sent, body = large.SerializeToString(), over_http(large)
    headers = {"content-encoding": "gzip", "inference-header-content-length": str(len(body) - (50 << 20))}
    packed = gzip.compress(body)
    options = [("grpc.max_send_message_length", -1)]

    def outcome(_: int) -> str:
        if protocol == "grpc":
            answered = infer.future(sent, timeout=120, compression=grpc.Compression.Gzip)
            return str(answered.code().name)
        connection = http.client.HTTPConnection(echo_served.door.listen, timeout=120)
        connection.request("POST", PATH, packed, headers)
        return str(connection.getresponse().status)

    with grpc.insecure_channel(echo_served.door.listen, options) as channel, ThreadPoolExecutor(16) as pool:
        infer = channel.unary_unary(METHOD)
        found = set(pool.map(outcome, range(16)))
    assert found <= {"INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "400", "504"}, "or it waited for too long"
    (largest,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{echo_served.gateway.pid}/status").read_text())
    assert int(largest) << 10 < GATEWAY_BYTES, largest
    assert echo_served.all_run()


@pytest.mark.slow
def test_so_it_is_for_a_hundred_thousand(echo_served: Echoing) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    sender, rng = Sender(echo_served), random.Random(seed)
    held = []
    for _ in range(2):
        send(sender, rng, MANY // 2)
        held.append(
            {name: getattr(echo_served, name).memory_info().rss for name in ("triton", "gateway", "envoy")}
        )
    answered = sender.check()
    first, second = held
    print(f"\n{answered} answered, {sender.refused} refused; held {first}, then {second}")
    assert all(second[name] <= 1.05 * first[name] for name in first)
