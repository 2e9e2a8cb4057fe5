"""`format: json`: one JSON object a message, in UTF-8."""

from __future__ import annotations

import json
from typing import Any

import orjson

from penstock.contracts.pipeline import Source
from penstock_ingest.formats import Decoder, Undecodable


def decoder(source: Source) -> Decoder:
    return _decode


def _decode(value: bytes) -> Any:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        return _with_infinities(value, error)


def _with_infinities(value: bytes, error: orjson.JSONDecodeError) -> Any:
    """`NaN` and `Infinity` are no JSON, but many programs write them: read them, so that the reject
    can name the field.
    """
    try:
        event = json.loads(value)
        # Lone surrogates and huge integers, which the lenient reader takes, are no JSON downstream.
        orjson.dumps(event)
    except (ValueError, TypeError, RecursionError):
        detail = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise Undecodable("not_json", f"the event is no JSON: {detail}") from None
    return event
