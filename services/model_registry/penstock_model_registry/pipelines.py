"""Pipelines: checked, numbered, announced. The same text again changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import structlog
from sqlalchemy.orm import Session

from penstock.contracts.digests import digest_of
from penstock.contracts.errors import Conflict, NotFound
from penstock.contracts.events import PipelineApplied
from penstock.contracts.load import BadPipeline, Problem, place, read_data
from penstock.contracts.pipeline import Pipeline
from penstock.runtime.store import Effect, Store
from penstock_model_registry.compatibility import incompatible
from penstock_model_registry.store import PipelineRow, pipeline_row
from penstock_model_registry.topics import PipelineTopics

log = structlog.get_logger(__name__)

_TRIES = 5


@dataclass(frozen=True)
class Applied:
    pipeline: str
    number: int
    """0 where there are problems."""
    changed: bool
    problems: tuple[Problem, ...] = ()


class Pipelines:
    def __init__(self, store: Store, topics: PipelineTopics, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._topics = topics
        self._clock = clock

    async def apply(self, text: str, file: str, *, by: str, dry_run: bool = False) -> Applied:
        """Problems, or the number that the file has now. Its topics exist before anybody hears of
        it. Raises Unavailable without Kafka.
        """
        try:
            spec = read_data(text, file)
        except BadPipeline as bad:
            return Applied("", 0, changed=False, problems=bad.problems)
        new = Pipeline.model_validate(spec)
        for _ in range(_TRIES):
            newest = await self._store.read(lambda session: _newest(session, new.pipeline))
            if newest and newest.text == text:
                return Applied(new.pipeline, newest.number, changed=False)
            if newest and (problems := await self._incompatible(newest.pipeline, new, text, file)):
                return Applied(new.pipeline, 0, changed=False, problems=problems)
            number = newest.number + 1 if newest else 1
            if dry_run:
                return Applied(new.pipeline, number, changed=True)
            await asyncio.to_thread(self._topics.ensure, new)
            event = PipelineApplied(
                pipeline=new.pipeline,
                number=number,
                spec=spec,
                text=text,
                digest=digest_of(text.encode()),
                applied_at=self._clock(),
                applied_by=by,
            )
            if await self._store.write(partial(self._number, event)):
                log.info("pipeline_applied", pipeline=event.pipeline, number=number, by=by)
                return Applied(new.pipeline, number, changed=True)
        raise Conflict("others apply this pipeline all the time", where=new.pipeline, remedy="Apply it again")

    async def _incompatible(self, old: Pipeline, new: Pipeline, text: str, file: str) -> tuple[Problem, ...]:
        if not incompatible(old, new, with_data=old.sources.keys()):
            return ()  # whatever was published
        with_data = await asyncio.to_thread(self._topics.with_data, old)
        return place(text, file, incompatible(old, new, with_data))

    def _number(self, event: PipelineApplied, effect: Effect) -> bool:
        """False where somebody else took the number."""
        if effect.session.get(PipelineRow, (event.pipeline, event.number)) is not None:
            return False
        row = PipelineRow(name=event.pipeline, number=event.number, text=event.text, applied=event)
        effect.session.add(row)
        effect.publish(event)
        return True


def _newest(session: Session, name: str) -> PipelineRow | None:
    try:
        return pipeline_row(session, name)
    except NotFound:
        return None
