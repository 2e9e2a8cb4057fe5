"""Formats of events. A format is its keys in `penstock.contracts.pipeline.sources` and a module
here, named by its type, with `decoder(source)`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from penstock.contracts.dataplane import RejectReason
from penstock.contracts.pipeline import Source

Decoder = Callable[[bytes], Any]
"""Decodes a message's value. Raises Undecodable."""


class Undecodable(Exception):
    """Message that is no event. `detail` is one sentence for people and never holds a value."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def decoder(source: Source) -> Decoder:
    """Decoder of the source's format."""
    made: Decoder = import_module(f"{__name__}.{source.format.type}").decoder(source)
    return made


def entity_key(event: bytes, source: Source, field: str) -> bytes | None:
    """Finds the Kafka key of an event of `source`: its entity, from the key's `field`, as ingest will
    read it; None where it names none.
    """
    try:
        found = decoder(source)(event)
    except Undecodable:
        return None
    entity = found.get(field) if isinstance(found, dict) else None
    return None if entity is None else str(entity).encode()
