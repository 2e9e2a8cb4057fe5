"""Rejects of the site since its start: how many events of a source broke which rule, for people who do
not see what publishers were answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from penstock.contracts.validation import Rejected
from penstock.edge_gateway.v1 import site_pb2


class Rejects:
    """Counts of rejects by reason. Used on the event loop alone."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._counts: dict[tuple[str, str, str], site_pb2.SiteRejects] = {}

    def count(self, pipeline: str, source: str, rejected: Iterable[Rejected]) -> None:
        """Counts them; the first of each reason is the example, and holds no value."""
        for one in rejected:
            known = self._counts.get((pipeline, source, one.reason))
            if known is None:
                known = self._example(pipeline, source, one)
                self._counts[pipeline, source, one.reason] = known
            known.events += 1

    def told(self) -> list[site_pb2.SiteRejects]:
        return list(self._counts.values())

    def _example(self, pipeline: str, source: str, one: Rejected) -> site_pb2.SiteRejects:
        made = site_pb2.SiteRejects(pipeline=pipeline, source=source, reason=one.reason)
        made.first.FromDatetime(self._clock())
        if one.reason == "unknown_field":  # its name may be a value of a file whose columns have slipped
            made.detail = "the source does not declare a field that the event has"
        else:
            made.field, made.detail = one.field or "", one.detail
        return made
