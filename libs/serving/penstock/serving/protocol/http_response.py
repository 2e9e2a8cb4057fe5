"""HTTP response of an inference: written from Triton's by the gateway, and read by the recorder.

`Inference-Header-Content-Length` says how long its JSON is; binary tensors follow.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any

import orjson
from tritonclient.grpc import service_pb2

from penstock.serving.protocol.tensors import InferMessage, Tensor, Undecodable, from_bytes


def write_response(
    response: service_pb2.ModelInferResponse, wants_binary: Callable[[str], bool]
) -> tuple[bytes, int | None]:
    """Writes the body, and how long its JSON is where binary tensors follow. Raises Undecodable for
    a number that JSON does not have.
    """
    outputs, binary = [], []
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        told: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": list(output.shape),
        }
        if wants_binary(output.name):
            told["parameters"] = {"binary_data_size": len(raw)}
            binary.append(raw)
        else:
            told["data"] = from_bytes(output.datatype, raw, output.name)
            if not all(isfinite(value) for value in told["data"] if isinstance(value, float)):
                raise Undecodable(f"{output.name} has a number that JSON does not have: ask for binary data")
        outputs.append(told)
    said: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        said["id"] = response.id
    if response.parameters:
        said["parameters"] = {name: _plain(one) for name, one in response.parameters.items()}
    head = orjson.dumps(said | {"outputs": outputs})
    return b"".join((head, *binary)), len(head) if binary else None


def _plain(parameter: service_pb2.InferParameter) -> bool | int | float | str | None:
    kind = parameter.WhichOneof("parameter_choice")
    value: bool | int | float | str | None = getattr(parameter, kind) if kind else None
    return value


def read_response(body: bytes, header_length: int | None) -> InferMessage:
    """Reads what `write_response` wrote. Raises Undecodable."""
    length = header_length or len(body)
    try:
        said = orjson.loads(body[:length])
        return InferMessage("", said["model_version"], _tensors(said["outputs"], body[length:]))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise Undecodable(f"the body is not of the protocol's form: {error}") from error


def _tensors(outputs: list[dict[str, Any]], rest: bytes) -> dict[str, Tensor]:
    found, at = {}, 0
    for output in outputs:
        if "data" in output:
            values = output["data"]
        else:
            size = output["parameters"]["binary_data_size"]
            values = from_bytes(output["datatype"], rest[at : at + size], output["name"])
            at += size
        found[output["name"]] = Tensor(tuple(output["shape"]), values)
    return found
