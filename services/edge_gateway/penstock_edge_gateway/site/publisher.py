"""Events that programs beside the site publish: judged by their pipeline's rules and on disk, before
they are confirmed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from penstock.contracts.dataplane import LATEST
from penstock.contracts.errors import NotFound, TooLarge
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.validation import Accepted, Rejected, Rules
from penstock_edge_gateway.site.lane import Lane
from penstock_edge_gateway.site.leaving import Leaving, Pseudonym, leaving
from penstock_edge_gateway.site.rejects import Rejects
from penstock_edge_gateway.site.spool import Record
from penstock_edge_gateway.site.spool_file import Full

_AT_A_TIME: Final = 100  # events, between which others have their turn: 100 take some 2 ms


class Publisher:
    def __init__(
        self,
        pipelines: Callable[[str], Pipeline],
        lane: Lane,
        *,
        age: timedelta,
        clock: Callable[[], datetime],
        pseudonym: Pseudonym,
    ) -> None:
        """`pipelines`: the newest file of a pipeline, raises NotFound. `age`: nothing more is taken
        while the oldest event has waited for longer.
        """
        self.pipeline = pipelines
        self._lane = lane
        self._age = age
        self._clock = clock
        self._pseudonym = pseudonym
        self.rejects = Rejects(clock)
        self._rules: dict[tuple[str, str], tuple[Pipeline, Rules, Leaving]] = {}

    async def publish(self, pipeline: str, source: str, events: Sequence[bytes]) -> Mapping[int, Rejected]:
        """Returns the rejects by their place in `events`; all others are on disk, without what may not
        leave the site. Raises NotFound, Conflict for a source of which nothing acceptable may leave,
        TooLarge where there is no room, and Unavailable without the key for pseudonyms: then none is
        kept.
        """
        rules, leave_out = self._rules_of(pipeline, source)
        latest = min(LATEST, self._clock() + rules.ahead)
        rejects: dict[int, Rejected] = {}
        records = []
        for place, event in enumerate(events):
            if place % _AT_A_TIME == _AT_A_TIME - 1:
                await asyncio.sleep(0)
            answer = rules.check(event, latest)
            if isinstance(answer, Accepted):
                records.append(Record(pipeline, source, *leave_out(event, answer), required=True))
            else:
                rejects[place] = answer
        if records:
            await self._keep(records)
        self.rejects.count(pipeline, source, rejects.values())
        return rejects

    async def _keep(self, records: Sequence[Record]) -> None:
        try:
            if (self._lane.spool.oldest_s or 0) > self._age.total_seconds():
                raise Full
            await self._lane.keep(records)
        except Full as error:
            raise self._refused() from error

    def _refused(self) -> TooLarge:
        depth = self._lane.spool.depth()
        since = self._lane.refuse(self._clock())
        return TooLarge(
            f"no event was taken since {since:%Y-%m-%d %H:%M:%S%z}: {depth.records:,} wait for the"
            f" hub, the oldest for {(depth.oldest_s or 0) / 3600:.1f} h, and fill {depth.bytes / 1e6:,.0f} of"
            f" {depth.size / 1e6:,.0f} MB",
            remedy="Bring back the connection to the hub, or give the spool more room:"
            " PENSTOCK_SITE__SPOOL_SIZE, PENSTOCK_SITE__SPOOL_AGE",
        )

    def _rules_of(self, pipeline: str, source: str) -> tuple[Rules, Leaving]:
        file = self.pipeline(pipeline)
        if source not in file.sources:
            raise NotFound(
                f"pipeline `{pipeline}` has no source `{source}`",
                remedy=f"Its sources: {', '.join(file.sources)}",
            )
        known = self._rules.get((pipeline, source))
        if known is None or known[0] is not file:  # applied anew
            known = file, Rules(file, source), leaving(file, source, self._pseudonym)
            self._rules[pipeline, source] = known
        return known[1:]
