"""Predictions from lines of the door's log: fields by name, row by row, as the version that
answered names them.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Mapping
from typing import Any, Final

import grpc
import orjson

from penstock.contracts.dataplane import Prediction
from penstock.serving.model import Layout, Layouts
from penstock.serving.protocol.checks import EVENTS
from penstock.serving.protocol.http_request import PATH, Head, read_request
from penstock.serving.protocol.http_response import read_response
from penstock.serving.protocol.tensors import (
    Grown,
    InferMessage,
    Undecodable,
    grpc_names,
    grpc_request,
    grpc_request_of,
    grpc_response,
    inflate,
    unframe,
)
from penstock.serving.records import fill_inputs, fill_outputs
from penstock_inference.door.door import KEPT_BYTES, KEPT_HEAD_BYTES
from penstock_inference.record.origin import Origins


class Unattributed(Exception):
    """Line that belongs to no pipeline: it is counted and logged, not published."""


_GRPC_STATUS: Final = {code.value[0]: code.name for code in grpc.StatusCode}


def read_line(line: bytes, layouts: Layouts, origins: Origins | None = None) -> tuple[str, Prediction]:
    """Reads the pipeline and its prediction, with the events behind it where `origins` sealed them.
    Raises Unattributed.
    """
    try:
        entry = orjson.loads(line)
        if not (isinstance(entry["id"], str) and isinstance(entry["traceparent"], str | None)):
            raise TypeError("its id or its trace is no text")
        status = _status(entry)
        request, (pipeline, version), problem = _request(entry)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unattributed(f"the line cannot be read: {error}") from error
    response: InferMessage | None = None
    if status == "OK":
        try:
            response = _response(entry)
        except Undecodable as error:
            problem = problem or f"response: {error}"
    layout = layouts(pipeline, _number(response.version if response else version))
    if layout is None:
        raise Unattributed(
            f"no pipeline {pipeline!r} was ever served"
            if pipeline
            else problem or "the line names no pipeline"
        )
    prediction = _empty(entry, pipeline, status, layout if response else None)
    prediction["undecoded"] = problem
    origin = None
    if request is not None:
        fill_inputs(prediction, request, layout)
        origin = origins.opened(request.parameters.get(EVENTS)) if origins else None
        prediction["events"] = (origin.events or None) if origin else None
        if origin and origin.warnings:
            prediction["warnings"] = origin.warnings
    if response is not None:
        fill_outputs(prediction, response)
        if origin and origin.site:
            origin.site.fill(prediction)
    return pipeline, prediction


def _empty(entry: Mapping[str, Any], pipeline: str, status: str, layout: Layout | None) -> Prediction:
    # Without inputs and outputs; `layout` is of the version that answered.
    return Prediction(
        id=entry["id"],
        pipeline=pipeline,
        digest=layout.digest if layout else None,
        generation=layout.generation if layout else None,
        time=entry["time"],
        milliseconds=float(entry["milliseconds"] or 0),
        protocol="grpc" if entry["protocol"] == "grpc" else "http",
        status=status,
        traceparent=entry["traceparent"],
        rows=None,
        inputs=None,
        probabilities=None,
        values=None,
        decisions=None,
        undecoded=None,
    )


def _status(entry: Mapping[str, Any]) -> str:
    if entry["protocol"] != "grpc":
        return "OK" if entry["status"] == 200 else str(entry["status"])
    number = entry["grpc_status"]
    return "UNKNOWN" if number is None else _GRPC_STATUS.get(number, str(number))


def _request(entry: Mapping[str, Any]) -> tuple[InferMessage | None, tuple[str, str], str | None]:
    # The request, its model and version, and the reason why no more can be read.
    over_grpc = entry["protocol"] == "grpc"
    asked = ("", "")
    if not over_grpc and (path := PATH.fullmatch(entry["path"] or "")):
        asked = (path[1], path[2] or "")
    body, encoding = entry["request"], entry["request_encoding"]
    if body is None:
        return None, asked, "the request was refused before its body was read"
    try:
        data = b64decode(body)
        if (entry["request_bytes"] or 0) > KEPT_BYTES:
            if over_grpc:
                asked = grpc_names(inflate(data[5:], encoding if data[0] else None))
            return None, asked, f"a request of {entry['request_bytes']:.0f} bytes is not kept"
        if over_grpc:
            message = unframe(data, encoding, most=KEPT_BYTES)
            try:
                request = grpc_request(message)
            except Undecodable:
                asked = grpc_names(message)
                raise
            return request, (request.model, request.version), None
        head = Head(entry["path"], encoding, entry["request_header_length"])
        found = read_request(head, data, most=KEPT_BYTES)
        return grpc_request_of(found.message), asked, None
    except Grown:
        if over_grpc:
            asked = grpc_names(inflate(data[5:KEPT_HEAD_BYTES], encoding))
        return None, asked, f"a request of over {KEPT_BYTES} bytes is not kept"
    except (Undecodable, binascii.Error) as error:
        return None, asked, f"request: {error}"


def _response(entry: Mapping[str, Any]) -> InferMessage:
    if entry["response"] is None:
        raise Undecodable(f"{entry['response_bytes'] or 0:.0f} bytes are not kept")
    data, encoding = b64decode(entry["response"]), entry["response_encoding"]
    if entry["protocol"] == "grpc":
        return grpc_response(unframe(data, encoding))
    return read_response(inflate(data, encoding), _number(entry["response_header_length"]))


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None
