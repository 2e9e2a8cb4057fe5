"""Counts of one partition's events by outcome, since the first.

Travels as the metadata of the committed offset, so that the count and the position it belongs to
are one write: a count can neither be lost nor doubled.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import orjson
from pydantic import TypeAdapter

from penstock.contracts.events import Count

_VERSION: Literal[1] = 1
_ENCODED = TypeAdapter(tuple[Literal[1], Count, Count, Count, dict[str, Count]])


@dataclass(frozen=True, slots=True)
class Counts:
    """`events == records + duplicates + sum(rejects.values())`, always."""

    records: int = 0
    duplicates: int = 0
    # Ids dropped while still within the deduplication window, because the capacity was reached.
    forgotten: int = 0
    rejects: Counter[str] = field(default_factory=Counter)  # by reason

    @property
    def events(self) -> int:
        return self.records + self.duplicates + self.rejects.total()

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.records + other.records,
            self.duplicates + other.duplicates,
            self.forgotten + other.forgotten,
            self.rejects + other.rejects,
        )

    def encode(self) -> str:
        """A few hundred characters; Kafka allows 4,096."""
        return orjson.dumps(
            [_VERSION, self.records, self.duplicates, self.forgotten, dict(self.rejects)]
        ).decode()


def decode_counts(metadata: str) -> Counts:
    """Counts from nothing where the metadata is not ours: an operator has moved the offsets."""
    try:
        _, records, duplicates, forgotten, rejects = _ENCODED.validate_json(metadata)
    except ValueError:
        return Counts()
    return Counts(records, duplicates, forgotten, Counter(rejects))
