"""One reading of an HTTP body: what it takes, it takes in one way; what two readers could read in two
ways, it refuses.
"""

from __future__ import annotations

import gzip
import json
import math
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from tritonclient.grpc import service_pb2

from penstock.serving.protocol.checks import check
from penstock.serving.protocol.http_request import MAX_JSON_BYTES, Head, HttpRequest, TooLarge, read_request
from penstock.serving.protocol.http_response import read_response, write_response
from penstock.serving.protocol.tensors import Undecodable, grpc_request_of

PATH = "/v2/models/tickets/infer"
NUMBERS: dict[str, Any] = {"name": "numbers", "shape": [1, 2], "datatype": "FP64", "data": [50.0, 3.0]}
STRINGS: dict[str, Any] = {
    "name": "strings",
    "shape": [1, 3],
    "datatype": "BYTES",
    "data": ["mail", "true", "printer broken again"],
}


def body(numbers: dict[str, Any] | None = None, strings: dict[str, Any] | None = None, **more: Any) -> bytes:
    inputs = [NUMBERS | (numbers or {}), STRINGS | (strings or {})]
    return json.dumps({"inputs": inputs} | more).encode()


def read(
    data: bytes, *, path: str = PATH, encoding: str | None = None, length: str | None = None
) -> HttpRequest:
    return read_request(Head(path, encoding, length), data)


def values(data: bytes, **how: Any) -> dict[str, Any]:
    return {name: one.values for name, one in grpc_request_of(read(data, **how).message).tensors.items()}


def test_plain_json() -> None:
    request = read(body(id="7"), path="/v2/models/tickets/versions/3/infer?x=/infer")
    assert (request.message.model_name, request.message.model_version, request.message.id) == (
        "tickets",
        "3",
        "7",
    )
    assert values(body()) == {"numbers": [50.0, 3.0], "strings": STRINGS["data"]}
    assert not request.wants_binary("decision")


@pytest.mark.parametrize("data", [[50, 3], [[50, 3]], [50.0, 3]])
def test_flat_or_nested_as_the_shape_says(data: list[Any]) -> None:
    assert values(body({"data": data}))["numbers"] == [50.0, 3.0]


def test_null_is_a_missing_number() -> None:
    missing, there = values(body({"data": [[None, 3.0]]}))["numbers"]
    assert math.isnan(missing)
    assert there == 3.0


@pytest.mark.parametrize("packed", [(gzip.compress, "gzip"), (zlib.compress, "deflate")])
def test_compressed(packed: tuple[Callable[[bytes], bytes], str]) -> None:
    pack, encoding = packed
    assert values(pack(body()), encoding=encoding) == values(body())
    for wrong in (pack(body())[:-1], pack(body()) + b"x", pack(body()) * 2, body()):
        with pytest.raises(Undecodable):
            read(wrong, encoding=encoding)


def test_a_body_that_grows_too_large_is_not_inflated() -> None:
    with pytest.raises(Undecodable, match="larger than 64 MiB"):
        read(gzip.compress(b" " * (65 << 20)), encoding="gzip")


def test_outputs_as_each_is_wanted() -> None:
    outputs = [{"name": "decision", "parameters": {"binary_data": True}}, {"name": "probabilities"}]
    request = read(body(outputs=outputs))
    assert [one.name for one in request.message.outputs] == ["decision", "probabilities"]
    assert [request.wants_binary(name) for name in ("decision", "probabilities")] == [True, False]
    assert read(body(parameters={"binary_data_output": True})).wants_binary("decision")


@pytest.mark.parametrize(
    "spoiled",
    [
        b"",
        b"[]",
        b"\xef\xbb\xbf" + body(),
        body().decode().encode("utf-16"),
        body().replace(b"50.0", b"NaN"),
        body().replace(b"50.0", b"-Infinity"),
        body().replace(b"50.0", b"1e999"),
        body().replace(b"50.0", b"1" + b"0" * 400),
        body().replace(b"50.0", b"1" * 5000),
        body().replace(b"50.0", b"050"),
        body().replace(b"50.0", b"true"),
        body().replace(b"50.0", b'"50"'),
        body().replace(b'"mail"', b"null"),
        body().replace(b'"mail"', b'"\\ud800"'),
        body().replace(b'"FP64"', b'"\\uD800"'),
        body().replace(b'"numbers"', b'"\\ude00"'),
        body().replace(b'"name"', b'"\\ud800"'),
        body().replace(b'"mail"', b'"\xff"'),
        body().replace(b'"mail"', b'"a\nb"'),
        body() + b"x",
        body().replace(b'"shape": [1, 2]', b'"shape": [1, 2], "shape": [1, 2]'),
        body().replace(b'{"inputs"', b'{"inputs": [], "inputs"'),
        b"[" * 100_000,
        body({"shape": [1 << 40, 5], "data": []}),
        body({"shape": [1 << 40, 2]}),
        body({"shape": [-1, -2]}),
        body({"shape": [1.0, 2]}),
        body({"shape": [True, 2]}),
        body({"shape": []}),
        body({"shape": [0, 2], "data": []}, {"shape": [0, 3], "data": []}),
        body({"shape": [2, 2]}),
        body({"shape": [2, 1], "data": [[50.0, 3.0]]}),
        body({"data": [[50.0], [3.0]]}),
        body({"data": [[50.0, 3.0], 1.0]}),
        body({"data": [[[50.0, 3.0]]]}),
        body({"data": "50"}),
        body({"datatype": "FP65"}),
        body({"datatype": "FP32", "data": [1e300, 1.0]}),
        body({"datatype": "INT8", "data": [128, 1]}),
        body({"datatype": "INT64", "data": [1.0, 1]}),
        body({"datatype": "BOOL", "data": [1, 0]}),
        body({"name": "strings"}),
        body({"extra": 1}),
        body({"parameters": {"shared_memory_region": "x"}}),
        body({"parameters": {"binary_data_size": 16}}),
        body({"parameters": None}),
        body(parameters={"sequence_id": 1}),
        body(parameters={"binary_data_output": 1}),
        body(model_name="other"),
        body(id=7),
        body(outputs=[{"name": "probabilities", "parameters": {"classification": 2}}]),
        body(outputs=[{"name": "a"}, {"name": "a"}]),
        body(outputs=[{}]),
        b'{"inputs": {}}',
        b'{"inputs": [1]}',
    ],
)
def test_refused(spoiled: bytes) -> None:
    with pytest.raises(Undecodable):
        read(spoiled)


@pytest.mark.parametrize("length", ["", "0", "-1", "+1", " 1", "1,1", "99999", "1e2", "\xb2"])
def test_a_length_of_the_json_that_is_none_is_refused(length: str) -> None:
    with pytest.raises(Undecodable):
        read(body(), length=length)


def binary(sizes: tuple[int, int], rest: bytes) -> tuple[bytes, str]:
    inputs = [
        {key: value for key, value in one.items() if key != "data"}
        | {"parameters": {"binary_data_size": size}}
        for one, size in zip((NUMBERS, STRINGS), sizes, strict=True)
    ]
    head = json.dumps({"inputs": inputs}).encode()
    return head + rest, str(len(head))


def test_binary_tensors_fill_the_rest_exactly() -> None:
    numbers, strings = struct.pack("<2d", 50.0, 3.0), b"\1\0\0\0a\0\0\0\0\2\0\0\0\xc3\xa4"
    data, length = binary((16, len(strings)), numbers + strings)
    assert values(data, length=length) == {"numbers": [50.0, 3.0], "strings": ["a", "", "ä"]}
    for sizes, rest in (
        ((16, len(strings)), numbers + strings + b"x"),
        ((16, len(strings)), (numbers + strings)[:-1]),
        ((15, len(strings) + 1), numbers + strings),
        ((-16, len(strings)), numbers + strings),
        ((16, len(strings)), numbers + b"\xff" * len(strings)),
        ((16, len(strings)), numbers + b"\1\0\0\0a\0\0\0\0\2\0\0\0\xc3\xff"),
        ((1 << 62, len(strings)), numbers + strings),
    ):
        data, length = binary(sizes, rest)
        with pytest.raises(Undecodable):
            read(data, length=length)


def test_json_has_a_bound_and_binary_tensors_have_none_of_it() -> None:
    with pytest.raises(TooLarge):
        read(body() + b" " * MAX_JSON_BYTES)
    rows = 1 << 20
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "n",
                    "shape": [rows, 1],
                    "datatype": "FP64",
                    "parameters": {"binary_data_size": 8 * rows},
                }
            ]
        }
    ).encode()
    assert len(read(head + bytes(8 * rows), length=str(len(head))).message.raw_input_contents[0]) == 8 * rows


# -- over gRPC -------------------------------------------------------------------------------------


def test_a_message_is_checked_in_the_same_way() -> None:
    def spoiled(change: Callable[[Any], object]) -> service_pb2.ModelInferRequest:
        made = read(body()).message
        change(made)
        return made

    check(spoiled(lambda one: one.parameters["penstock_events"].MergeFromString(b"")))
    for change in (
        lambda one: one.inputs[0].shape.__setitem__(0, 1 << 40),
        lambda one: one.inputs[0].shape.__setitem__(0, 0),
        lambda one: one.inputs[0].parameters["x"].MergeFromString(b""),
        lambda one: one.parameters["x"].MergeFromString(b""),
        lambda one: one.outputs.add(name="p").parameters["classification"].MergeFromString(b""),
        lambda one: one.raw_input_contents.append(b""),
        lambda one: one.raw_input_contents.pop(),
        lambda one: one.inputs[0].contents.fp64_contents.append(1.0),
        lambda one: one.raw_input_contents.__setitem__(1, b"\1\0\0\0\xff" * 3),
    ):
        with pytest.raises(Undecodable):
            check(spoiled(change))


# -- responses -------------------------------------------------------------------------------------


def response(number: float = 0.25) -> service_pb2.ModelInferResponse:
    made = service_pb2.ModelInferResponse(model_name="tickets", model_version="3", id="7")
    made.outputs.add(name="decision", datatype="BYTES", shape=[1, 1])
    made.outputs.add(name="probabilities", datatype="FP32", shape=[1, 2])
    made.raw_output_contents.extend([b"\3\0\0\0yes", struct.pack("<2f", number, 0.75)])
    return made


@pytest.mark.parametrize("wanted", [(), ("decision",), ("probabilities",), ("decision", "probabilities")])
def test_a_response_is_read_as_it_was_written(wanted: tuple[str, ...]) -> None:
    data, length = write_response(response(), lambda name: name in wanted)
    assert (length is None) == (not wanted)
    found = read_response(data, length)
    assert found.version == "3"
    assert {name: one.values for name, one in found.tensors.items()} == {
        "decision": ["yes"],
        "probabilities": [0.25, 0.75],
    }


def test_a_number_that_json_does_not_have_is_not_made_into_another() -> None:
    with pytest.raises(Undecodable, match="binary"):
        write_response(response(math.inf), lambda _: False)
    data, length = write_response(response(math.inf), lambda _: True)
    assert read_response(data, length).tensors["probabilities"].values == [math.inf, 0.75]
