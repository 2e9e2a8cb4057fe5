"""Form of a message, remembered: what is read by it is what the whole message says."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from penstock.serving.protocol import tensors
from penstock.serving.protocol.forms import FORM_BYTES, FORMS, Form, Forms
from penstock.serving.protocol.tensors import (
    Undecodable,
    grpc_request,
    grpc_request_of,
    grpc_response,
    grpc_response_of,
)

Request, Response = service_pb2.ModelInferRequest, service_pb2.ModelInferResponse
NAMES = st.sampled_from(["numbers", "strings", "", "n" * 200])
SHAPES = st.lists(st.integers(-1, 3), max_size=3)
DATATYPES = st.sampled_from(["FP64", "FP32", "BYTES", "INT32", "text"])
# Lengths on either side of where protobuf writes them in one, two, three bytes more.
CONTENTS = st.one_of(
    st.binary(max_size=24),
    st.lists(st.floats(), max_size=3).map(lambda values: struct.pack(f"<{len(values)}d", *values)),
    st.sampled_from([127, 128, 16_383, 16_384]).map(bytes),
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    made = Request(model_name=draw(NAMES), model_version=draw(st.sampled_from(["", "3"])), id=draw(NAMES))
    for name, shape, datatype in draw(st.lists(st.tuples(NAMES, SHAPES, DATATYPES), max_size=3)):
        made.inputs.add(name=name, shape=shape, datatype=datatype)
    made.raw_input_contents.extend(draw(st.lists(CONTENTS, max_size=3)))
    if draw(st.booleans()):
        made.parameters["penstock_events"].string_param = draw(st.text(max_size=5))
    return bytes(made.SerializeToString())


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    made = Response(model_name=draw(NAMES), model_version=draw(st.sampled_from(["", "3"])))
    for name, shape, datatype in draw(st.lists(st.tuples(NAMES, SHAPES, DATATYPES), max_size=3)):
        made.outputs.add(name=name, shape=shape, datatype=datatype)
    made.raw_output_contents.extend(draw(st.lists(CONTENTS, max_size=3)))
    return bytes(made.SerializeToString())


@st.composite
def odd(draw: st.DrawFn, messages: st.SearchStrategy[bytes]) -> bytes:
    """Messages, two of them in one, cut off, or with a byte that is another."""
    message = draw(st.one_of(messages, st.builds(bytes.__add__, messages, messages)))
    at = draw(st.integers(0, len(message)))
    return draw(
        st.sampled_from(
            [message, message, message[:at], message[:at] + b"\x3a" + message[at + 1 :], message + b"\x01"]
        )
    )


def read(how: Any, message: Any) -> str:
    # As text, in which a NaN is like another.
    try:
        return repr(how(message))
    except Undecodable as error:
        return str(error)


def whole(kind: Any, how: Any, message: bytes) -> str:
    try:
        return read(how, kind.FromString(message))
    except tensors.DecodeError:
        return "the message is no protobuf of its kind"


@given(odd(requests()))
def test_a_request_read_by_its_form_is_the_request(message: bytes) -> None:
    assert read(grpc_request, message) == whole(Request, grpc_request_of, message)


@given(odd(responses()))
def test_a_response_read_by_its_form_is_the_response(message: bytes) -> None:
    assert read(grpc_response, message) == whole(Response, grpc_response_of, message)


# Unknown fields that protobuf skips: a number, eight bytes, four, one with a number of two bytes.
FOREIGN = [b"\x78\x0a", b"\x79" + bytes(8), b"\x7d" + bytes(4), b"\x82\x01\x03abc", b"\x80\x01\x0a"]


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("contents", [1, 2])
def test_a_field_of_another_kind_hides_no_contents(foreign: bytes, contents: int) -> None:
    """A record that says another number than the model saw."""
    head = Request(model_name="credit-risk")
    head.inputs.add(name="numbers", shape=[1, 1], datatype="FP64")
    raw = Request(raw_input_contents=[struct.pack("<d", number) for number in range(contents)])
    parts = [head.SerializeToString(), raw.SerializeToString()]
    for message in (foreign.join([b"", *parts]), foreign.join(parts), b"".join([*parts, foreign])):
        assert read(grpc_request, message) == whole(Request, grpc_request_of, message)


def a_request(*numbers: float, model: str = "credit-risk") -> bytes:
    made = Request(model_name=model)
    made.inputs.add(name="numbers", shape=[1, len(numbers)], datatype="FP64")
    made.raw_input_contents.append(struct.pack(f"<{len(numbers)}d", *numbers))
    return bytes(made.SerializeToString())


@pytest.mark.parametrize("length", [1, 15, 16, 127, 128, 2_047, 2_048, 40_000])
def test_requests_of_one_form_are_not_parsed_again(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsing each took a quarter of the recorder's time."""
    grpc_request(a_request(*range(length)))
    monkeypatch.setattr(tensors, "_parsed", None)
    values = [float(number) for number in range(length, 0, -1)]
    assert grpc_request(a_request(*values)).tensors["numbers"].values == values


def test_forms_are_remembered_and_do_not_fill_the_memory() -> None:
    asked: list[str] = []

    def of(request: Any) -> Form:
        asked.append(request.model_name)
        return Form(request.model_name, "", (), {})

    forms = Forms(Request, "raw_input_contents", of)
    assert all(forms.known(a_request(float(number))) for number in range(10))
    assert asked == ["credit-risk"]
    assert forms.known(a_request(1.0, model="m" * FORM_BYTES)) is None
    for number in range(FORMS):  # the first one is forgotten
        forms.known(a_request(1.0, model=f"m{number}"))
    forms.known(a_request(1.0))
    assert asked.count("credit-risk") == 2
