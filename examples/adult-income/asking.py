"""Predictions asked as any client of the Open Inference Protocol asks for them: events as two
tensors, sent by a plain tritonclient or as JSON over HTTP.
"""

from __future__ import annotations

import json
import urllib.request

import numpy as np
import tritonclient.grpc as triton
from data import Event

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
