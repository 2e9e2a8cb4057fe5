"""Record of a prediction: fields by name, row by row, as the version that answered names them."""

from __future__ import annotations

from math import isfinite, isnan
from typing import Final

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
            rows = request.tensors[name].matrix(len(fields), name)
            prediction["rows"] = len(rows)
            for column, field in enumerate(fields):
                inputs[field] = [_value(row[column], boolean=field in layout.booleans) for row in rows]
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
        prediction["inputs"] = prediction["probabilities"] = prediction["values"] = prediction[
            "decisions"
        ] = None
        prediction.pop("confidence", None)
        prediction["undecoded"] = f"a record of {len(value)} bytes is not kept"
        value = orjson.dumps(prediction)
    return value


def _value(value: Scalar, *, boolean: bool) -> Value:
    # As it came: a text that is no boolean stays a text, and so does a number that JSON does not have.
    if isinstance(value, str):
        return None if value == "" else value == "true" if boolean and value in _BOOLEANS else value
    return None if isnan(value) else float(value) if isfinite(value) else str(float(value))
