"""`format: json`: one JSON object a message, in UTF-8."""

from __future__ import annotations

import json
from typing import Any

from penstock.contracts.dataplane import read_json
from penstock.contracts.formats import Decoder, Undecodable
from penstock.contracts.pipeline import Source


def decoder(source: Source) -> Decoder:
    return _decode


def _decode(value: bytes) -> Any:
    try:
        return read_json(value)
    except json.JSONDecodeError as error:
        why = f"{error.msg} at line {error.lineno}, column {error.colno}"
        if value.startswith(b"\0"):
            why = (
                "it begins with a zero byte, as a schema registry's framing and UTF-16 do;"
                " publish plain JSON in UTF-8"
            )
        raise Undecodable("not_json", f"the event is no JSON: {why}") from error
