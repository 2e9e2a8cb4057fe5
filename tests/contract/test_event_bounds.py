"""What an event may hold, every later layer can: columns, protobuf's numbers and timestamps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import ValidationError

from penstock.contracts.events import Event, PipelineApplied, decode

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "schemas" / "examples").glob("*.json"))
FREE = {"spec", "overrides", "metrics", "tuner", "choices"}  # their numbers are judged by whoever reads them
NAMES = {"pipeline", "digest", "run_id", "audit_id"}
ABSURD: dict[str, tuple[Any, ...]] = {
    "number": (2**63, -1, 10**30),
    "moment": ("0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-12:00", "1969-12-31T23:59:59Z"),
    "name": ("x" * 1000, "a\0b"),
}


def leaves(node: Any, name: str = "") -> Iterator[tuple[Any, Any, str]]:
    """Each bounded value's holder, key there, and sort."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if key in FREE:
            continue
        named = key if isinstance(key, str) else name
        if isinstance(value, int) and not isinstance(value, bool):
            yield node, key, "number"
        elif named.endswith("_at") or named in ("at", "since"):
            yield node, key, "moment"
        elif named in NAMES or named.endswith("_by"):
            yield node, key, "name"
        else:
            yield from leaves(value, named)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_number_time_and_name_is_bounded(path: Path) -> None:
    ce_type = f"io.penstock.{path.stem}.v1"
    example = json.loads(path.read_bytes())
    assert decode(ce_type, json.dumps(example).encode())
    for holder, key, sort in leaves(example):
        genuine = holder[key]
        if genuine is None or isinstance(genuine, dict | list):
            continue
        for value in ABSURD[sort]:
            holder[key] = value
            try:
                event: Event | None = decode(ce_type, json.dumps(example).encode())
            except ValidationError:
                continue
            finally:
                holder[key] = genuine
            pytest.fail(f"{key} = {str(value)[:40]!r} is taken: {event}")


def test_the_last_moment_of_an_event_is_a_timestamp() -> None:
    event = json.loads(next(path for path in EXAMPLES if path.stem == "PipelineApplied").read_bytes())
    event["applied_at"] = "9999-12-31T00:00:00Z"
    Timestamp().FromDatetime(PipelineApplied.model_validate(event).applied_at)
