"""Predictions asked as any client of the Open Inference Protocol asks for them: events as two
tensors, sent by a plain tritonclient or as JSON over HTTP.
"""

from __future__ import annotations

import json
import urllib.request

import grpc
import numpy as np
import tritonclient.grpc as triton
from data import Event
from tritonclient.grpc import service_pb2, service_pb2_grpc

from penstock.contracts.pipeline import Pipeline


def model_fields(pipeline: Pipeline, event: Event) -> dict[str, object]:
    """The event's values by the names of the model's features."""
    features = pipeline.resolved_features()
    return {name: event.get(feature.source_field.partition(".")[2]) for name, feature in features.items()}


def tensors(pipeline: Pipeline, events: list[Event]) -> tuple[np.ndarray, np.ndarray]:
    """`numbers` FP64 [N, n] and `strings` BYTES [N, m], fields in the file's order."""
    features = pipeline.resolved_features()
    numeric = [
        name for name, feature in features.items() if pipeline.field(feature.source_field).type == "number"
    ]
    texts = [name for name in features if name not in numeric]
    rows = [model_fields(pipeline, event) for event in events]
    numbers = [[np.nan if row[name] is None else float(row[name]) for name in numeric] for row in rows]  # type: ignore[arg-type]
    strings = [[str(row[name] or "").encode() for name in texts] for row in rows]
    return np.array(numbers), np.array(strings, dtype=object)


def inputs(numbers: np.ndarray, strings: np.ndarray) -> list[triton.InferInput]:
    """The two tensors as tritonclient takes them."""
    made = []
    for name, datatype, array in (("numbers", "FP64", numbers), ("strings", "BYTES", strings)):
        made.append(triton.InferInput(name, list(array.shape), datatype))
        made[-1].set_data_from_numpy(array)
    return made


def over_grpc(
    channel: grpc.Channel, pipeline: str, numbers: np.ndarray, strings: np.ndarray
) -> tuple[np.ndarray, str]:
    """Probabilities [N, classes] by the protocol's own stub, which shows the prediction's id."""
    request = service_pb2.ModelInferRequest(model_name=pipeline)
    texts = b"".join(len(text).to_bytes(4, "little") + text for text in strings.ravel())
    for name, datatype, array, raw in (
        ("numbers", "FP64", numbers, numbers.astype("<f8").tobytes()),
        ("strings", "BYTES", strings, texts),
    ):
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(raw)
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    answer, call = stub.ModelInfer.with_call(request, timeout=10)
    at = [output.name for output in answer.outputs].index("probabilities")
    found = np.frombuffer(answer.raw_output_contents[at], "<f4").reshape(len(numbers), -1)
    told = dict([*call.initial_metadata(), *call.trailing_metadata()])  # a site tells it behind the answer
    return found, told["x-penstock-prediction"]


def over_http(
    endpoint: str, pipeline: str, numbers: np.ndarray, strings: np.ndarray
) -> tuple[np.ndarray, str]:
    """Probabilities [N, classes] by JSON over HTTP, and the id of the prediction."""
    texts = [text.decode() for text in strings.ravel()]
    known = [None if np.isnan(number) else number for number in numbers.ravel().tolist()]
    tensors = [
        {"name": "numbers", "shape": numbers.shape, "datatype": "FP64", "data": known},
        {"name": "strings", "shape": strings.shape, "datatype": "BYTES", "data": texts},
    ]
    url = f"http://{endpoint}/v2/models/{pipeline}/infer"
    request = urllib.request.Request(url, json.dumps({"inputs": tensors}).encode())
    with urllib.request.urlopen(request, timeout=10) as response:
        outputs = {output["name"]: output["data"] for output in json.load(response)["outputs"]}
    probabilities = np.array(outputs["probabilities"]).reshape(len(numbers), -1)
    return probabilities, response.headers["x-penstock-prediction"]
