"""What the tests of inference share: lines of the door's log, made as Envoy makes them."""

from __future__ import annotations

import struct
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from tritonclient.grpc import InferInput, service_pb2

from penstock.serving.model import Layout

sys.path.insert(
    0, str(Path(__file__).parent / "support")
)  # pytest's importlib mode lets tests share modules in no other way

LAYOUT = Layout(
    digest="sha256:" + "a" * 64,
    generation=3,
    numbers=("age", "income"),
    strings=("purpose", "owns"),
    booleans=frozenset({"owns"}),
)


@pytest.fixture(scope="session")
def echo_served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Triton, gateway and Envoy around a model that answers its own inputs: an `echo.Echoing`."""
    from echo import echoing

    with echoing(tmp_path_factory.mktemp("e")) as made:
        yield made


@pytest.fixture
def layout() -> Layout:
    return LAYOUT


@pytest.fixture
def layouts() -> Callable[[str, int | None], Layout | None]:
    return lambda pipeline, generation: LAYOUT if pipeline == "credit-risk" else None


def tensor(name: str, rows: list[list[Any]], datatype: str) -> InferInput:
    array = (
        np.array([[value.encode() for value in row] for row in rows], dtype=object)
        if datatype == "BYTES"
        else np.array(rows)
    )
    made = InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def frame(message: bytes, *, compressed: bool = False) -> bytes:
    return struct.pack(">BI", compressed, len(message)) + message


@pytest.fixture
def grpc_request() -> Callable[..., Any]:
    def make(
        numbers: list[list[float]], strings: list[list[str]], model: str = "credit-risk", version: str = ""
    ) -> Any:
        request = service_pb2.ModelInferRequest(model_name=model, model_version=version)
        for made in (tensor("numbers", numbers, "FP64"), tensor("strings", strings, "BYTES")):
            request.inputs.append(made._get_tensor())
            request.raw_input_contents.append(made._get_content())
        return request

    return make


@pytest.fixture
def grpc_response() -> Callable[..., Any]:
    def make(probabilities: list[list[float]], decisions: list[str], version: str = "3") -> Any:
        response = service_pb2.ModelInferResponse(model_name="credit-risk", model_version=version)
        described = response.outputs.add(
            name="probabilities", datatype="FP32", shape=[len(probabilities), len(probabilities[0])]
        )
        assert described.name
        response.raw_output_contents.append(np.array(probabilities, dtype="f4").tobytes())
        response.outputs.add(name="decision", datatype="BYTES", shape=[len(decisions), 1])
        response.raw_output_contents.append(
            b"".join(struct.pack("<I", len(text)) + text.encode() for text in decisions)
        )
        return response

    return make


@pytest.fixture
def line() -> Callable[..., bytes]:
    """One line as the door writes it: bodies in base64."""

    def make(request: bytes | None = None, response: bytes | None = None, **said: Any) -> bytes:
        members = {
            "grpc_status": 0,
            "id": "4d3d9bd8-f64b-4b87-ac87-553d87301f69",
            "milliseconds": 2.125,
            "protocol": "grpc",
            "path": "/inference.GRPCInferenceService/ModelInfer",
            "request": b64encode(request).decode() if request is not None else None,
            "request_bytes": len(request) if request is not None else None,
            "request_encoding": None,
            "request_header_length": None,
            "response": b64encode(response).decode() if response is not None else None,
            "response_bytes": len(response) if response is not None else None,
            "response_encoding": None,
            "response_header_length": None,
            "status": 200,
            "time": "2026-11-23T18:08:07.448968Z",
            "traceparent": None,
        }
        return orjson.dumps(members | said, option=orjson.OPT_SORT_KEYS)

    return make


@pytest.fixture
def framed() -> Callable[..., bytes]:
    return frame
