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
        why = f"the event is no JSON: {error.msg} at line {error.lineno}, column {error.colno}"
    # `NaN` and `Infinity` are no JSON, but many programs write them: read them, so that the reject
    # can name the field.
    try:
        event = json.loads(value)
        # Lone surrogates and huge integers, which the lenient reader takes, are no JSON downstream.
        orjson.dumps(event)
    except (ValueError, TypeError, RecursionError):
        raise Undecodable("not_json", why) from None
    return event
