"""A line of the log becomes fields by name, whatever way the client chose to send them; what cannot
be read says why.
"""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.contracts.topics import MESSAGE_BYTES
from penstock.serving.model import Layout, Layouts
from penstock.serving.records import encoded
from penstock_inference.door.door import KEPT_BYTES, KEPT_HEAD_BYTES
from penstock_inference.record.predictions import Unattributed, read_line

Make = Callable[..., Any]

NUMBERS = [[41.0, float("nan")], [29.0, 2500.0]]
STRINGS = [["car", "true"], ["", "false"]]
INPUTS = {"age": [41.0, 29.0], "income": [None, 2500.0], "purpose": ["car", None], "owns": [True, False]}
PROBABILITIES = [[0.25, 0.75], [0.5, 0.5]]
DECISIONS = ["yes", "abstain"]


def answered(prediction: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(
        prediction[key]
        for key in ("rows", "inputs", "probabilities", "decisions", "digest", "generation", "undecoded")
    )


@pytest.mark.parametrize("encoding", [None, "gzip", "deflate"])
def test_grpc(
    encoding: str | None, line: Make, framed: Make, grpc_request: Make, grpc_response: Make, layouts: Layouts
) -> None:
    pack = {None: bytes, "gzip": gzip.compress, "deflate": zlib.compress}[encoding]
    request = framed(
        pack(grpc_request(NUMBERS, STRINGS).SerializeToString()), compressed=encoding is not None
    )
    response = framed(grpc_response(PROBABILITIES, DECISIONS).SerializeToString())
    pipeline, prediction = read_line(
        line(request, response, request_encoding=encoding, traceparent="00-a-b-01"), layouts
    )
    assert pipeline == "credit-risk"
    assert answered(prediction) == (2, INPUTS, PROBABILITIES, DECISIONS, "sha256:" + "a" * 64, 3, None)
    assert (prediction["protocol"], prediction["status"], prediction["traceparent"]) == (
        "grpc",
        "OK",
        "00-a-b-01",
    )


def test_grpc_with_typed_contents(
    line: Make, framed: Make, grpc_request: Make, grpc_response: Make, layouts: Layouts
) -> None:
    request = grpc_request(NUMBERS, STRINGS)
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp64_contents.extend(value for row in NUMBERS for value in row)
    request.inputs[1].contents.bytes_contents.extend(value.encode() for row in STRINGS for value in row)
    response = framed(grpc_response(PROBABILITIES, DECISIONS).SerializeToString())
    _, prediction = read_line(line(framed(request.SerializeToString()), response), layouts)
    assert (prediction["inputs"], prediction["undecoded"]) == (INPUTS, None)


def http_line(line: Make, request: bytes, response: bytes, **said: Any) -> bytes:
    return line(
        request, response, protocol="http", path="/v2/models/credit-risk/infer", grpc_status=None, **said
    )


def http_inputs(**data: Any) -> list[dict[str, Any]]:
    return [
        {"name": "numbers", "shape": [2, 2], "datatype": "FP64", **data["numbers"]},
        {"name": "strings", "shape": [2, 2], "datatype": "BYTES", **data["strings"]},
    ]


HTTP_RESPONSE = json.dumps(
    {
        "model_name": "credit-risk",
        "model_version": "3",
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [2, 2], "data": [0.25, 0.75, 0.5, 0.5]},
            {"name": "decision", "datatype": "BYTES", "shape": [2, 1], "data": DECISIONS},
        ],
    }
).encode()


@pytest.mark.parametrize("encoding", [None, "gzip"])
def test_http_json_nested_or_flat(encoding: str | None, line: Make, layouts: Layouts) -> None:
    asked = {
        "inputs": http_inputs(
            numbers={"data": [[41, None], [29, 2500]]}, strings={"data": ["car", "true", "", "false"]}
        )
    }
    request = json.dumps(asked).encode()
    if encoding:
        request = gzip.compress(request)
    _, prediction = read_line(http_line(line, request, HTTP_RESPONSE, request_encoding=encoding), layouts)
    assert answered(prediction) == (2, INPUTS, PROBABILITIES, DECISIONS, "sha256:" + "a" * 64, 3, None)
    assert prediction["protocol"] == "http"


def test_http_binary_both_ways(line: Make, layouts: Layouts) -> None:
    numbers = np.array(NUMBERS).tobytes()
    strings = b"".join(struct.pack("<I", len(text)) + text.encode() for row in STRINGS for text in row)
    asked = {
        "inputs": http_inputs(
            numbers={"parameters": {"binary_data_size": len(numbers)}},
            strings={"parameters": {"binary_data_size": len(strings)}},
        )
    }
    request = json.dumps(asked).encode()
    probabilities = np.array(PROBABILITIES, dtype="f4").tobytes()
    told = json.loads(HTTP_RESPONSE)
    del told["outputs"][0]["data"]
    told["outputs"][0]["parameters"] = {"binary_data_size": len(probabilities)}
    response = json.dumps(told).encode()
    made = http_line(
        line,
        request + numbers + strings,
        response + probabilities,
        request_header_length=str(len(request)),
        response_header_length=str(len(response)),
    )
    assert answered(read_line(made, layouts)[1]) == (
        2,
        INPUTS,
        PROBABILITIES,
        DECISIONS,
        "sha256:" + "a" * 64,
        3,
        None,
    )


def test_a_refused_call_is_recorded_with_its_status(
    line: Make, framed: Make, grpc_request: Make, layouts: Layouts
) -> None:
    request = framed(grpc_request([[1.0] * 5], [["car", "true"]]).SerializeToString())
    _, prediction = read_line(line(request, b"", grpc_status=3), layouts)
    assert (prediction["status"], prediction["generation"], prediction["inputs"]) == (
        "INVALID_ARGUMENT",
        None,
        None,
    )
    assert prediction["undecoded"] == "request: numbers is [1, 5] with 5 values, expected [N, 2]"


@pytest.mark.parametrize("compressed", [False, True])
def test_of_a_body_too_large_to_keep_the_model_is_known(
    compressed: bool, line: Make, framed: Make, grpc_request: Make, grpc_response: Make, layouts: Layouts
) -> None:
    rng = np.random.default_rng(1)
    message = grpc_request(rng.normal(size=(80_000, 2)).tolist(), [["car", "true"]]).SerializeToString()
    body = framed(gzip.compress(message, 1) if compressed else message, compressed=compressed)
    assert len(body) > KEPT_BYTES
    response = framed(grpc_response(PROBABILITIES, DECISIONS).SerializeToString())
    made = line(
        body[:KEPT_HEAD_BYTES],
        response,
        request_bytes=float(len(body)),
        request_encoding="gzip" if compressed else None,
    )
    pipeline, prediction = read_line(made, layouts)
    assert (pipeline, prediction["inputs"], prediction["decisions"]) == ("credit-risk", None, DECISIONS)
    assert prediction["undecoded"] == f"a request of {len(body)} bytes is not kept"


def test_a_record_too_large_for_a_topic_goes_without_inputs_and_outputs(
    line: Make, framed: Make, grpc_request: Make, grpc_response: Make, layouts: Layouts
) -> None:
    """Raw doubles become twice as long in JSON."""
    rows = 25_000
    request = grpc_request([[0.0, 0.0]] * rows, [["car", "true"]] * rows)
    request.raw_input_contents[0] = np.random.default_rng(1).normal(size=(rows, 2)).tobytes()
    body = framed(request.SerializeToString())
    assert len(body) <= KEPT_BYTES
    _, prediction = read_line(
        line(body, framed(grpc_response(PROBABILITIES, DECISIONS).SerializeToString())), layouts
    )
    length = len(orjson.dumps(prediction))
    assert length > MESSAGE_BYTES
    value = encoded(prediction)
    assert len(value) < 1000
    said = orjson.loads(value)
    assert (said["id"], said["digest"], said["inputs"], said["decisions"]) == (
        prediction["id"],
        prediction["digest"],
        None,
        None,
    )
    assert said["undecoded"] == f"a record of {length} bytes is not kept"


def test_a_response_too_large_to_keep(line: Make, framed: Make, grpc_request: Make, layouts: Layouts) -> None:
    made = line(framed(grpc_request(NUMBERS, STRINGS).SerializeToString()), None, response_bytes=5e6)
    _, prediction = read_line(made, layouts)
    assert (prediction["inputs"], prediction["undecoded"]) == (INPUTS, "response: 5000000 bytes are not kept")


@pytest.mark.parametrize(
    ("request_body", "reason"),
    [
        (b"{", "request: the body is no JSON"),
        (b"[]", "request: the request is no JSON object"),
        (b'{"inputs": [{"name": "numbers"}]}', "request: input 0 lacks datatype, shape"),
        (b'{"inputs": []}', "request: there are no inputs"),
        (
            b'{"inputs": [{"name": "strings", "shape": [1, 2], "datatype": "BYTES", "data": ["", ""]}]}',
            "request: there is no tensor numbers",
        ),
    ],
)
def test_undecodable_says_why(request_body: bytes, reason: str, line: Make, layouts: Layouts) -> None:
    _, prediction = read_line(http_line(line, request_body, HTTP_RESPONSE), layouts)
    assert prediction["undecoded"] is not None
    assert prediction["undecoded"].startswith(reason)
    assert prediction["decisions"] == DECISIONS


@pytest.mark.parametrize(
    "broken", [b"", b"{", b"[]", b'{"id": "x"}', b'{"protocol": "grpc", "grpc_status": 0}']
)
def test_a_line_that_is_none_belongs_to_nobody(broken: bytes, layouts: Layouts) -> None:
    with pytest.raises(Unattributed):
        read_line(broken, layouts)


def test_a_model_that_never_was_belongs_to_nobody(
    line: Make, framed: Make, grpc_request: Make, layouts: Layouts
) -> None:
    with pytest.raises(Unattributed, match="'other' was ever served"):
        read_line(
            line(framed(grpc_request(NUMBERS, STRINGS, "other").SerializeToString()), b"", grpc_status=5),
            layouts,
        )


def test_values_are_recorded_as_they_came(
    line: Make, framed: Make, grpc_request: Make, grpc_response: Make, layouts: Layouts
) -> None:
    """The model knows no boolean `True`, and an infinite number is not a missing one."""
    rows = [[41.0, float("inf")], [float("-inf"), 1.0]], [["car", "True"], ["car", "false"]]
    request = framed(grpc_request(*rows).SerializeToString())
    _, prediction = read_line(
        line(request, framed(grpc_response(PROBABILITIES, DECISIONS).SerializeToString())), layouts
    )
    assert prediction["inputs"] == {
        "age": [41.0, "-inf"],
        "income": ["inf", 1.0],
        "purpose": ["car", "car"],
        "owns": ["True", False],
    }


def test_a_text_that_is_not_utf_8_is_not_made_into_another(
    line: Make, framed: Make, grpc_request: Make, grpc_response: Make, layouts: Layouts
) -> None:
    request = grpc_request(NUMBERS, STRINGS)
    request.raw_input_contents[1] = request.raw_input_contents[1].replace(b"car", b"c\xffr")
    response = framed(grpc_response(PROBABILITIES, DECISIONS).SerializeToString())
    _, prediction = read_line(line(framed(request.SerializeToString()), response), layouts)
    assert (prediction["inputs"], prediction["decisions"]) == (None, DECISIONS)
    assert "not UTF-8" in str(prediction["undecoded"])


def test_a_regression(line: Make, layouts: Layouts) -> None:
    told: dict[str, Any] = {
        "model_version": "3",
        "outputs": [{"name": "value", "datatype": "FP32", "shape": [2, 1], "data": [1.5, 2.5]}],
    }
    asked = {
        "inputs": http_inputs(
            numbers={"data": [41, 1, 29, 2500]}, strings={"data": ["car", "true", "", "false"]}
        )
    }
    _, prediction = read_line(http_line(line, json.dumps(asked).encode(), json.dumps(told).encode()), layouts)
    assert (prediction["values"], prediction["probabilities"], prediction["decisions"]) == (
        [1.5, 2.5],
        None,
        None,
    )
    assert "intervals" not in prediction
    told["outputs"].append({"name": "interval", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 2, 3]})
    _, prediction = read_line(http_line(line, json.dumps(asked).encode(), json.dumps(told).encode()), layouts)
    assert prediction["intervals"] == [[1, 2], [2, 3]]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["name", "shape", "data", "datatype", "parameters"]), inner)
    ),
    max_leaves=20,
)
TENSOR = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["numbers", "strings", "x"]),
        "datatype": st.sampled_from(["FP64", "BYTES", "X"]),
    },
    optional={"shape": JSON, "data": JSON, "parameters": JSON},
)


@settings(max_examples=60)
@given(
    st.binary()
    | st.lists(TENSOR | JSON, max_size=3).map(lambda tensors: json.dumps({"inputs": tensors}).encode()),
    st.booleans(),
    st.text(max_size=3),
)
def test_whatever_is_sent_becomes_a_record(body: bytes, over_grpc: bool, header_length: str) -> None:
    said = {
        "grpc_status": 3 if over_grpc else None,
        "status": 400,
        "protocol": "grpc" if over_grpc else "http",
        "milliseconds": 1.0,
        "id": "x",
        "time": "2026-11-23T18:08:07.448968Z",
        "path": "/v2/models/credit-risk/infer",
        "traceparent": None,
        "request_encoding": None,
        "request_header_length": header_length,
        "request": b64encode(body).decode(),
        "request_bytes": len(body),
        "response": "",
        "response_bytes": 0,
        "response_encoding": None,
        "response_header_length": None,
    }
    layout = Layout("sha256:0", 3, ("age", "income"), ("purpose", "owns"), frozenset({"owns"}))
    try:
        _, prediction = read_line(
            json.dumps(said).encode(), lambda pipeline, _: layout if pipeline == "credit-risk" else None
        )
    except Unattributed:
        assert over_grpc  # over HTTP the path says whose it is
    else:
        orjson.dumps(prediction)
