"""Tensors of the protocol, read from requests and responses over gRPC: frames of
`inference.GRPCInferenceService/ModelInfer`, with raw contents or typed ones.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from penstock.serving.protocol.forms import Form, Forms

Scalar = float | int | str | bool
Numbers = Sequence[Sequence[float | None]]  # rows of the tensor `numbers`; None is missing
Strings = Sequence[Sequence[str]]  # rows of the tensor `strings`; "" is missing

MAX_DECODED_BYTES: Final = 64 << 20  # largest size that a compressed body may grow to
# Code of a value in `struct`, and in NumPy, by datatype.
CODES: Final = dict(
    zip(
        (
            "BOOL",
            *(f"{kind}{bits}" for kind in ("UINT", "INT") for bits in (8, 16, 32, 64)),
            "FP16",
            "FP32",
            "FP64",
        ),
        "?BHIQbhiqefd",
        strict=True,
    )
)
SIZES: Final = {name: struct.calcsize(f"<{code}") for name, code in CODES.items()}
NUMPY: Final = {name: np.dtype(f"<{code}") for name, code in CODES.items()}
CONTENTS: Final = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


class Undecodable(Exception):
    """Body that is not of the protocol's form; the message is one clause for people."""


class Grown(Undecodable):
    """Body that is larger than is taken when it is decompressed."""


class Tensor(NamedTuple):
    """Tensor as plain values, row by row."""

    shape: tuple[int, ...]
    values: list[Scalar]

    def matrix(self, columns: int, name: str) -> list[list[Scalar]]:
        """Values as a list of rows. Raises Undecodable for any shape but [N, columns]."""
        self.rows(columns, name)
        return [self.values[at : at + columns] for at in range(0, len(self.values), columns)]

    def rows(self, columns: int, name: str) -> int:
        """Counts the rows. Raises Undecodable for any shape but [N, columns]."""
        if len(self.shape) != 2 or self.shape[1] != columns or len(self.values) != self.shape[0] * columns:
            raise Undecodable(
                f"{name} is {list(self.shape)} with {len(self.values)} values, expected [N, {columns}]"
            )
        return self.shape[0]


class InferMessage(NamedTuple):
    """Request or response of an inference."""

    model: str
    version: str
    tensors: dict[str, Tensor]
    parameters: Mapping[str, str] = MappingProxyType({})  # texts of a request over gRPC


# -- gRPC ------------------------------------------------------------------------------------------


def unframe(body: bytes, encoding: str | None, *, most: int = MAX_DECODED_BYTES) -> bytes:
    """Takes the message out of a unary gRPC body: a flag, a length, the message. Raises
    Undecodable, Grown where it has more than `most` bytes when it is decompressed.
    """
    if len(body) < 5:
        raise Undecodable("the body is shorter than a gRPC frame")
    compressed, length = struct.unpack_from(">BI", body)
    message = body[5 : 5 + length]
    if len(message) < length:
        raise Undecodable("the gRPC frame is cut off")
    return inflate(message, encoding, most=most) if compressed else message


def grpc_request(message: bytes) -> InferMessage:
    """Reads a ModelInferRequest. Raises Undecodable."""
    if known := _REQUESTS.known(message):
        return _of_form(*known)
    return grpc_request_of(_parsed(service_pb2.ModelInferRequest, message))


def grpc_request_of(request: service_pb2.ModelInferRequest) -> InferMessage:
    return _message(_form_of_request(request), request.inputs, request.raw_input_contents)


def grpc_response(message: bytes) -> InferMessage:
    """Reads a ModelInferResponse. Raises Undecodable."""
    if known := _RESPONSES.known(message):
        return _of_form(*known)
    return grpc_response_of(_parsed(service_pb2.ModelInferResponse, message))


def grpc_response_of(response: service_pb2.ModelInferResponse) -> InferMessage:
    return _message(_form_of_response(response), response.outputs, response.raw_output_contents)


def grpc_names(head: bytes) -> tuple[str, str]:
    """Reads model and version from the beginning of a ModelInferRequest that is too large to keep:
    fields 1 and 2 stand first.
    """
    names = {1: "", 2: ""}
    at = 0
    while at + 1 < len(head) and head[at] in (0x0A, 0x12):
        field, length = head[at] >> 3, head[at + 1]
        if length > 0x7F or at + 2 + length > len(head):
            break
        names[field] = head[at + 2 : at + 2 + length].decode(errors="replace")
        at += 2 + length
    return names[1], names[2]


def _parsed(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise Undecodable("the message is no protobuf of its kind") from error


def _form_of_request(request: Any) -> Form:
    texts = {name: parameter.string_param for name, parameter in request.parameters.items()}
    return Form(request.model_name, request.model_version, _described(request.inputs), texts)


def _form_of_response(response: Any) -> Form:
    return Form(response.model_name, response.model_version, _described(response.outputs), {})


def _described(tensors: Sequence[Any]) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    return tuple((tensor.name, tuple(tensor.shape), tensor.datatype) for tensor in tensors)


_REQUESTS: Final = Forms(service_pb2.ModelInferRequest, "raw_input_contents", _form_of_request)
_RESPONSES: Final = Forms(service_pb2.ModelInferResponse, "raw_output_contents", _form_of_response)


def _message(form: Form, described: Sequence[Any], raw: Sequence[bytes]) -> InferMessage:
    if raw:
        return _of_form(form, raw)
    typed = {tensor.name: Tensor(tuple(tensor.shape), _typed(tensor)) for tensor in described}
    return InferMessage(form.model, form.version, typed, form.parameters)


def _of_form(form: Form, raw: Sequence[bytes]) -> InferMessage:
    if len(raw) != len(form.tensors):
        raise Undecodable(f"{len(form.tensors)} tensors, but {len(raw)} raw contents")
    tensors = {
        name: Tensor(shape, from_bytes(datatype, data, name))
        for (name, shape, datatype), data in zip(form.tensors, raw, strict=True)
    }
    return InferMessage(form.model, form.version, tensors, form.parameters)


def _typed(tensor: Any) -> list[Scalar]:
    if tensor.datatype not in CONTENTS:
        raise Undecodable(f"{tensor.name} has the datatype {tensor.datatype}")
    values = getattr(tensor.contents, CONTENTS[tensor.datatype])
    return [text(value, tensor.name) for value in values] if tensor.datatype == "BYTES" else list(values)


def from_bytes(datatype: str, data: bytes, name: str) -> list[Scalar]:
    """Reads a raw tensor: little-endian numbers, or texts, each after its length in four bytes.
    Raises Undecodable.
    """
    if datatype == "BYTES":
        return list(_texts(data, name))
    if datatype not in CODES:
        raise Undecodable(f"{name} has the datatype {datatype}")
    code, size = CODES[datatype], SIZES[datatype]
    if len(data) % size:
        raise Undecodable(f"{name}: {len(data)} bytes are no whole number of {datatype}")
    return list(struct.unpack(f"<{len(data) // size}{code}", data))


def count_texts(data: bytes, name: str) -> int:
    """Counts the texts of a raw tensor, with little memory. Raises Undecodable."""
    return sum(1 for _ in _texts(data, name))


def _texts(data: bytes, name: str) -> Iterator[str]:
    at, end = 0, len(data)
    try:
        while at < end:
            first = at + 4
            at = first + int.from_bytes(data[at:first], "little")
            if at > end:
                raise Undecodable(f"{name}: a text is cut off")
            yield data[first:at].decode()
    except UnicodeDecodeError as error:
        raise Undecodable(f"{name}: a text is not UTF-8: {error.reason}") from error


def text(value: bytes, name: str) -> str:
    """Reads a text of tensor `name`. Raises Undecodable where it is not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise Undecodable(f"{name}: a text is not UTF-8: {error.reason}") from error


# -- compression -----------------------------------------------------------------------------------


def inflate(
    data: bytes, encoding: str | None, *, whole: bool = False, most: int = MAX_DECODED_BYTES
) -> bytes:
    """Decompresses a body, `gzip` or `deflate`. One that is cut off gives what is there of it;
    `whole` refuses it, and what follows its end. Raises Undecodable, Grown beyond `most` bytes.
    """
    if encoding in (None, "", "identity"):
        return data
    if encoding not in ("gzip", "deflate"):
        raise Undecodable(f"the body's encoding is {encoding}")
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        inflated = inflater.decompress(data, most + 1)
    except zlib.error as error:
        raise Undecodable(f"the body is no {encoding}: {error}") from error
    if len(inflated) > most:
        raise Grown(f"the body is larger than {most >> 20} MiB")
    if whole and (not inflater.eof or inflater.unused_data):
        raise Undecodable(f"the {encoding} body is cut off, or something follows it")
    return inflated
