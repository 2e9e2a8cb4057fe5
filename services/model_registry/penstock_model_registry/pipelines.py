"""Pipelines: checked, numbered, announced. The same text again changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import structlog
from sqlalchemy import select

from penstock.contracts.digests import digest_of
from penstock.contracts.errors import Conflict, PenstockError, Tampered, Unavailable
from penstock.contracts.events import PipelineApplied, PipelineDeleted
from penstock.contracts.load import BadPipeline, Problem, place, read_data
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import pipeline_topics, source_topic
from penstock.packages.facts import signed, verify_fact
from penstock.packages.keys import Keys, Trust
from penstock.runtime.kafka.access import grant_topics
from penstock.runtime.kafka.admin import end_offsets, ensure_topics
from penstock.runtime.rpc import shown
from penstock.runtime.settings import KafkaSettings
from penstock.runtime.store import Effect, Store
from penstock_model_registry.compatibility import incompatible
from penstock_model_registry.deletion import Deletions
from penstock_model_registry.store import (
    DeletedRow,
    PipelineRow,
    champion_of,
    deleted_up_to,
    names,
    newest_pipeline,
    pipeline_row,
)

log = structlog.get_logger(__name__)

_TRIES = 5
_RETRY_S = 1.0


@dataclass(frozen=True)
class Applied:
    pipeline: str
    number: int  # 0 where there are problems
    changed: bool
    problems: tuple[Problem, ...] = ()


class Pipelines:
    def __init__(
        self,
        store: Store,
        kafka: KafkaSettings,
        keys: Keys,
        deletions: Deletions,
        clock: Callable[[], datetime],
    ) -> None:
        self.deletions = deletions
        self._store = store
        self._kafka = kafka
        self._keys = keys
        self._clock = clock
        self._reading = asyncio.Lock()  # a file takes a second of a processor: one thread, not all of them

    async def apply(self, text: str, file: str, *, by: str, dry_run: bool = False) -> Applied:
        """Problems, or the number that the file has now. Its topics exist before anybody hears of
        it. Raises Unavailable without Kafka.
        """
        try:
            async with self._reading:
                spec = await asyncio.to_thread(read_data, text, file)
        except BadPipeline as bad:
            return Applied("", 0, changed=False, problems=bad.problems)
        new = Pipeline.model_validate(spec)
        for _ in range(_TRIES):
            newest, deleted = await self._store.read(
                lambda session: (
                    newest_pipeline(session, new.pipeline),
                    deleted_up_to(session, new.pipeline),
                )
            )
            if newest and newest.text == text:
                return Applied(new.pipeline, newest.number, changed=False)
            if newest and (problems := await self._incompatible(newest.pipeline, new, text, file)):
                return Applied(new.pipeline, 0, changed=False, problems=problems)
            number = (newest.number if newest else deleted) + 1
            if dry_run:
                return Applied(new.pipeline, number, changed=True)
            event = PipelineApplied(
                pipeline=new.pipeline,
                number=number,
                spec=spec,
                text=text,
                digest=digest_of(text.encode()),
                applied_at=self._clock(),
                applied_by=by,
                deleted_before=deleted,
            )
            event = signed(event, self._keys.signer("registry"))
            async with self.deletions.changing:
                if deleted and not newest:  # events of the old pipeline are none of the new one's
                    await self.deletions.clear(new.pipeline)
                await asyncio.to_thread(self._make_topics, new)
                written = await self._store.write(partial(self._number, event))
            if written:
                log.info("pipeline_applied", pipeline=event.pipeline, number=number, by=by)
                return Applied(new.pipeline, number, changed=True)
        raise Conflict("others apply this pipeline all the time", where=new.pipeline, remedy="Apply it again")

    async def make_topics_again(self) -> None:
        """Makes what topics and rights are missing of each pipeline that is applied: Kafka had no rights
        in the release before. Waits while Kafka is away.
        """
        for pipeline in await self._store.read(
            lambda session: shown(names(session), lambda name: pipeline_row(session, name).pipeline)
        ):
            while True:
                try:
                    await asyncio.to_thread(self._make_topics, pipeline)
                    break
                except Unavailable as error:
                    log.warning("topics_not_made", pipeline=pipeline.pipeline, why=str(error))
                    await asyncio.sleep(_RETRY_S)

    def _make_topics(self, pipeline: Pipeline) -> None:
        """Makes a pipeline's topics and grants the rights on them, before anybody hears of them."""
        topics = pipeline_topics(pipeline)
        ensure_topics(self._kafka, topics)
        grant_topics(self._kafka, topics)

    async def _incompatible(self, old: Pipeline, new: Pipeline, text: str, file: str) -> tuple[Problem, ...]:
        if not incompatible(old, new, with_data=old.sources.keys()):
            return ()  # whatever was published
        topics = {source_topic("events", old.pipeline, source): source for source in old.sources}
        ends = await asyncio.to_thread(end_offsets, self._kafka, topics)  # expired events count too
        with_data = {topics[partition.topic] for partition, end in ends.items() if end > 0}
        problems = await asyncio.to_thread(place, text, file, incompatible(old, new, with_data))
        if problems and await self._store.read(lambda session: champion_of(session, old.pipeline)) is None:
            way_out = f"; or, as no version of it ever served: penstock delete {old.pipeline}"
            problems = (*problems[:-1], replace(problems[-1], message=problems[-1].message + way_out))
        return problems

    def state_again(self, effect: Effect) -> None:
        """Signs each file and deletion whose statement does not hold, and announces what is the newest of
        its pipeline: they are of a release that signed none, or the key was revoked.
        """
        trust, signer, session = self._keys.trust(), self._keys.signer("registry"), effect.session
        query = select(PipelineRow.name, PipelineRow.number)
        files = session.execute(query.order_by(PipelineRow.name, PipelineRow.number)).all()
        newest = dict(files)
        for name, number in files:
            told = log.bind(pipeline=name, number=number)
            try:
                row = session.get_one(PipelineRow, (name, number))
                if _holds(row.applied, trust):
                    continue
                row.applied = signed(row.applied, signer)
            except PenstockError as error:  # a damaged row holds up no other
                told.error("pipeline_not_stated_again", why=str(error))
                continue
            if number == newest[name]:
                effect.publish(row.applied)
            told.info("pipeline_stated_again")
        for name in session.scalars(select(DeletedRow.name)).all():
            try:
                gone = session.get_one(DeletedRow, name)
                if _holds(gone.deleted, trust):
                    continue
                gone.deleted = signed(gone.deleted, signer)
            except PenstockError as error:
                log.error("deletion_not_stated_again", pipeline=name, why=str(error))
                continue
            if name not in newest:
                effect.publish(gone.deleted)
            log.info("deletion_stated_again", pipeline=name)

    def _number(self, event: PipelineApplied, effect: Effect) -> bool:
        """False where somebody else took the number, deleted the pipeline, or may have removed its topics."""
        session = effect.session
        if not self.deletions.changing.held(effect):
            return False
        if session.get(PipelineRow, (event.pipeline, event.number)) is not None:
            return False
        if deleted_up_to(session, event.pipeline) != event.deleted_before:
            return False
        effect.session.add(PipelineRow.of(event))
        effect.publish(event)
        return True


def _holds(fact: PipelineApplied | PipelineDeleted, trust: Trust) -> bool:
    try:
        verify_fact(fact, trust)
    except Tampered:
        return False
    return True
