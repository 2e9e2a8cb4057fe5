"""HTTP request of an inference, read as a ModelInferRequest: by the gateway for the model, and by
the recorder for the record. Whatever these two could read in two ways is refused.

Beyond the protocol one thing is taken: `null` among floating-point numbers is a missing one.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from math import inf, nan
from typing import Any, Final, Never

from tritonclient.grpc import service_pb2

from penstock.serving.protocol.checks import LARGEST_DIMENSION, check
from penstock.serving.protocol.tensors import CODES, MAX_DECODED_BYTES, Undecodable, inflate

MAX_REQUEST_BYTES: Final = 64 << 20
MAX_JSON_BYTES: Final = 4 << 20
PATH: Final = re.compile(r"/v2/models/([^/?]+)(?:/versions/([^/?]+))?/infer(?:\?.*)?", re.DOTALL)

_REQUEST: Final = {"id": str, "model_name": str, "parameters": dict, "inputs": list, "outputs": list}
_INPUT: Final = {"name": str, "shape": list, "datatype": str, "parameters": dict, "data": list}
_OUTPUT: Final = {"name": str, "parameters": dict}
_FLOATS: Final[set[type]] = {int, float, type(None)}
_TYPES: Final[dict[str, set[type]]] = {
    "BOOL": {bool},
    "FP16": _FLOATS,
    "FP32": _FLOATS,
    "FP64": _FLOATS,
}  # others: integers


class TooLarge(Undecodable):
    """JSON over MAX_JSON_BYTES."""


@dataclass(frozen=True)
class Head:
    """Headers that say how a body is read, as they came, and the request's path."""

    path: str
    encoding: str | None  # Content-Encoding
    header_length: str | None  # Inference-Header-Content-Length


@dataclass(frozen=True)
class HttpRequest:
    message: service_pb2.ModelInferRequest
    binary: bool  # whether outputs go back as binary tensors
    binary_of: Mapping[str, bool]  # the same for outputs that the request names

    def wants_binary(self, output: str) -> bool:
        return self.binary_of.get(output, self.binary)


def read_request(head: Head, body: bytes, *, most: int = MAX_DECODED_BYTES) -> HttpRequest:
    """Reads a request. Raises Undecodable, TooLarge, Grown where a compressed body has more than
    `most` bytes.
    """
    asked = PATH.fullmatch(head.path)
    if asked is None:
        raise Undecodable("the path names no model")
    body = inflate(body, head.encoding, whole=True, most=most)
    length = _length(head.header_length, len(body))
    said = _members(_parsed(body[:length]), _REQUEST, "the request", needed={"inputs"})
    if said.get("model_name", asked[1]) != asked[1]:  # KServe's client says it here, too
        raise Undecodable("the model is another than the path's")
    message = service_pb2.ModelInferRequest(
        model_name=asked[1], model_version=asked[2] or "", id=said.get("id", "")
    )
    at = length
    for number, one in enumerate(said["inputs"]):
        at = _add_input(
            message, _members(one, _INPUT, f"input {number}", needed={"name", "shape", "datatype"}), body, at
        )
    if at != len(body):
        raise Undecodable(f"{len(body) - at} bytes follow that belong to no tensor")
    binary_of: dict[str, bool] = {}
    for number, one in enumerate(said.get("outputs", ())):
        output = _members(one, _OUTPUT, f"output {number}", needed={"name"})
        message.outputs.add(name=output["name"])
        binary_of |= _flag(output, "binary_data", f"output {number}", output["name"])
    check(message)
    binary = _flag(said, "binary_data_output", "the request", "")
    return HttpRequest(message, binary.get("", False), binary_of)


def _length(text: str | None, whole: int) -> int:
    if text is None:
        return whole
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) > whole:
        raise Undecodable(f"Inference-Header-Content-Length is {text!r}, the body has {whole} bytes")
    return int(text)


# -- JSON ------------------------------------------------------------------------------------------


def _parsed(data: bytes) -> Any:
    if len(data) > MAX_JSON_BYTES:
        raise TooLarge(f"{len(data)} bytes of JSON, at most {MAX_JSON_BYTES} are taken: send binary tensors")
    try:
        said = _DECODER.decode(data.decode())
        if b"\\ud" in data.lower():  # half a character, perhaps: no text
            json.dumps(said, ensure_ascii=False).encode()
    except UnicodeError as error:
        raise Undecodable(f"the body is not UTF-8: {error}") from error
    except (ValueError, RecursionError) as error:
        raise Undecodable(f"the body is no JSON: {error}") from error
    return said


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a member is named twice")
    return found


def _constant(name: str) -> Never:
    raise ValueError(f"{name} is no JSON number; a missing number is null")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def _members(value: Any, types: Mapping[str, type], what: str, needed: set[str]) -> dict[str, Any]:
    if type(value) is not dict:
        raise Undecodable(f"{what} is no JSON object")
    for name, member in value.items():
        if name not in types:
            raise Undecodable(f"{what} has the member {name!r}, which this door does not take")
        if type(member) is not types[name]:
            raise Undecodable(f"{name} of {what} is not of the protocol's form")
    if absent := needed - value.keys():
        raise Undecodable(f"{what} lacks {', '.join(sorted(absent))}")
    return value


def _flag(of: dict[str, Any], name: str, what: str, key: str) -> dict[str, bool]:
    if "parameters" not in of:
        return {}
    parameters = _members(of["parameters"], {name: bool}, f"parameters of {what}", needed=set())
    return {key: parameters[name]} if name in parameters else {}


# -- tensors ---------------------------------------------------------------------------------------


def _add_input(message: service_pb2.ModelInferRequest, said: dict[str, Any], body: bytes, at: int) -> int:
    # Returns where the next binary tensor begins.
    name, datatype, shape = said["name"], said["datatype"], said["shape"]
    if not all(type(size) is int and 0 <= size <= LARGEST_DIMENSION for size in shape):
        raise Undecodable(f"the shape of {name} is no list of sizes")
    if datatype not in CODES and datatype != "BYTES":
        raise Undecodable(f"{name} has the datatype {datatype}")
    parameters = _members(
        said.get("parameters", {}), {"binary_data_size": int}, f"parameters of {name}", needed=set()
    )
    message.inputs.add(name=name, datatype=datatype, shape=shape)
    size: int | None = parameters.get("binary_data_size")
    if (size is None) is ("data" not in said):
        raise Undecodable(f"{name} needs data or binary_data_size, and not both")
    if size is None:
        message.raw_input_contents.append(_raw(datatype, _flat(said["data"], shape, name), name))
        return at
    if not 0 <= size <= len(body) - at:
        raise Undecodable(f"{name} has {size} bytes of data, {len(body) - at} are left")
    message.raw_input_contents.append(body[at : at + size])
    return at + size


def _flat(data: list[Any], shape: list[int], name: str) -> list[Any]:
    # Flat as it is, or nested as its shape says.
    if list not in set(map(type, data)):
        return data
    for inner in shape[1:]:
        if any(type(part) is not list or len(part) != inner for part in data):
            raise Undecodable(f"the data of {name} is not nested as its shape {shape} says")
        data = list(chain.from_iterable(data))
    return data


def _raw(datatype: str, values: list[Any], name: str) -> bytes:
    there = set(map(type, values))
    try:
        if datatype == "BYTES":
            if not there <= {str}:
                raise Undecodable(f"{name} of BYTES has a value that is no text")
            texts = [value.encode() for value in values]
            return b"".join([len(text).to_bytes(4, "little") + text for text in texts])
        if not there <= _TYPES.get(datatype, {int}):
            raise Undecodable(f"{name} of {datatype} has a value of another type")
        if type(None) in there:
            values = [nan if value is None else value for value in values]
        if inf in values or -inf in values:
            raise OverflowError("a number is beyond every range")
        return struct.pack(f"<{len(values)}{CODES[datatype]}", *values)
    except (OverflowError, UnicodeEncodeError, struct.error) as error:
        raise Undecodable(f"{name} of {datatype} has a value that it cannot hold: {error}") from error
