"""Rows of a file as ingest would judge them, before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from penstock.client.declared import Row
from penstock.client.events import encoded
from penstock.contracts.dataplane import LATEST, RejectReason
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.validation import Rejected, Rules

Rule = tuple[RejectReason, str | None, str]
"""Reason of a reject, the field of the source that it is about, and the sentence on it."""


def rule(reason: RejectReason, field: str | None, detail: str) -> Rule:
    """Rule that a reject broke. Names that no source declares, and places in what is no JSON, are as many
    as a file likes, and one rule.
    """
    return (reason, field, detail) if field and reason != "unknown_field" else (reason, None, "")


@dataclass
class Kind:
    """Rows that break one rule of one field. `row`: the first of them, from 1, which `reject` tells of."""

    row: int
    reject: Rejected
    count: int = 1

    @property
    def said(self) -> str:
        return f"{self.count:,} {self.reject.reason}: {self.reject.detail} (row {self.row:,})"


class Judged:
    """Count of a file's rows, and of those that break a rule of their source."""

    def __init__(self, pipeline: Pipeline, source: str, now: datetime) -> None:
        self._rules = Rules(pipeline, source)
        self._latest = min(LATEST, now + self._rules.ahead)
        self._kinds: dict[Rule, Kind] = {}
        self.rows = 0

    def of(self, rows: Iterable[Row | bytes]) -> Iterator[Row | bytes]:
        """Lets through the rows that become records. Raises Invalid for one that has no JSON form."""
        for row in rows:
            self.rows += 1
            event = row if isinstance(row, bytes) else encoded(row, where=f"row {self.rows}")
            told = self._rules.check(event, self._latest)
            if not isinstance(told, Rejected):
                yield row
            elif kind := self._kinds.get(broken := rule(told.reason, told.field, told.detail)):
                kind.count += 1
            else:
                self._kinds[broken] = Kind(self.rows, told)

    @property
    def rejected(self) -> int:
        return sum(kind.count for kind in self._kinds.values())

    @property
    def kinds(self) -> list[Kind]:
        """Broken rules, the commonest first."""
        return sorted(self._kinds.values(), key=lambda kind: -kind.count)
