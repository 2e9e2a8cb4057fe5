"""Record of a prediction: fields by name, row by row, as the version that answered names them."""

from __future__ import annotations

from math import isfinite, isnan
from typing import Final, cast

import orjson

from penstock.contracts.dataplane import Prediction, Value
from penstock.contracts.topics import MESSAGE_BYTES
from penstock.serving.confidence import Edges
from penstock.serving.model import Layout
from penstock.serving.protocol.tensors import InferMessage, Scalar, Undecodable

PREDICTION_HEADER: Final = "x-penstock-prediction"  # carries a prediction's id, which the server makes
_BOOLEANS: Final = ("true", "false")


def fill_inputs(prediction: Prediction, request: InferMessage, layout: Layout) -> None:
    """Writes what was asked, by feature; where it cannot be read, `undecoded` says why."""
    try:
        inputs: dict[str, list[Value]] = {}
        for name, fields in (("numbers", layout.numbers), ("strings", layout.strings)):
            if not fields:
                continue
            if name not in request.tensors:
                raise Undecodable(f"there is no tensor {name}")
            tensor, columns = request.tensors[name], len(fields)
            prediction["rows"] = rows = tensor.rows(columns, name)
            values = _values(tensor.values)
            by_column = [[value] for value in values] if rows == 1 else _columns(values, columns)
            inputs.update(zip(fields, by_column, strict=True))
        for field in layout.booleans.intersection(inputs):
            inputs[field] = [value == "true" if value in _BOOLEANS else value for value in inputs[field]]
        prediction["inputs"] = inputs
    except (Undecodable, TypeError, ValueError, OverflowError) as error:
        prediction["undecoded"] = f"request: {error}"


def fill_outputs(prediction: Prediction, response: InferMessage) -> None:
    """Writes what was answered; where it cannot be read, `undecoded` says why."""
    try:
        for name, tensor in response.tensors.items():
            match name:
                case "probabilities":
                    columns = tensor.shape[-1] if tensor.shape else 0
                    prediction["probabilities"] = [
                        [float(value) for value in row] for row in tensor.matrix(columns, name)
                    ]
                case "value":
                    prediction["values"] = [float(row[0]) for row in tensor.matrix(1, name)]
                case "interval":
                    prediction["intervals"] = [[float(end) for end in row] for row in tensor.matrix(2, name)]
                case "decision":
                    prediction["decisions"] = [str(row[0]) for row in tensor.matrix(1, name)]
            prediction["rows"] = tensor.shape[0] if tensor.shape else 0
    except (Undecodable, TypeError, ValueError, OverflowError) as error:
        prediction["undecoded"] = f"response: {error}"


def fill_confidence(prediction: Prediction, edges: Edges | None, label_below: float | None) -> None:
    """Writes how far each row lies from a decision's edge, and whether a person should label it: where
    one lies nearer than `label_below`.
    """
    if edges and (rows := prediction["probabilities"]):
        prediction["confidence"] = edges.confidences(rows)
        if label_below is not None:
            prediction["for_labelling"] = min(prediction["confidence"]) < label_below


def encoded(prediction: Prediction) -> bytes:
    """Encodes a prediction as JSON that a topic takes. A longer one goes without its inputs and
    outputs, and says so in `undecoded`.
    """
    value = orjson.dumps(prediction)
    if len(value) > MESSAGE_BYTES:
        prediction["inputs"] = prediction["probabilities"] = None
        prediction["values"] = prediction["decisions"] = None
        for name in ("intervals", "confidence", "warnings"):
            prediction.pop(name, None)  # type: ignore[misc]  # each is one that need not be there
        prediction["undecoded"] = f"a record of {len(value)} bytes is not kept"
        value = orjson.dumps(prediction)
    return value


def _columns(values: list[Value], columns: int) -> list[list[Value]]:
    return [values[at::columns] for at in range(columns)]


def _values(values: list[Scalar]) -> list[Value]:
    # As they came, all of one tensor and so of one type: "" is a missing text, and a number that JSON
    # does not have is a text.
    if values and isinstance(values[0], str):
        return [value or None for value in values]
    numbers = cast(list[float], values)
    return [float(value) if isfinite(value) else _odd(value) for value in numbers]


def _odd(value: float) -> str | None:
    return None if isnan(value) else str(float(value))
