"""Deletion of a pipeline that never served anybody: its files and versions here, its topics, and by the
fact that all services follow, what they keep of it.

The fact and what is still to be removed are one transaction; the removal is done again until it has
been done. Numbers go on rising when the same name is applied anew, so that nothing of the old pipeline
is ever taken for the new one's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import structlog
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from penstock.contracts.errors import Conflict, PenstockError, Refused
from penstock.contracts.events import Artifact, PipelineDeleted
from penstock.contracts.topics import pipeline_topics, predictions_topic
from penstock.contracts.versions import version_name
from penstock.packages.facts import signed
from penstock.packages.keys import Keys
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.kafka.admin import MadeTopic, end_offsets, remove_topics, topics_made
from penstock.runtime.settings import KafkaSettings
from penstock.runtime.store import Effect, Store
from penstock_model_registry.lease import TopicsLease
from penstock_model_registry.store import (
    DeletedRow,
    PipelineRow,
    VersionRow,
    champion_of,
    newest_pipeline,
    pipeline_row,
)

log = structlog.get_logger(__name__)

AGAIN_S = 60.0  # a service that starts may make topics of a pipeline before it reads that it is deleted


@dataclass(frozen=True)
class Deleted:
    """Files up to `number`, versions and topics that went; none of these where it was deleted before."""

    number: int
    versions: int = 0
    topics: tuple[str, ...] = ()


class Deletions:
    """Safe from the event loop alone."""

    def __init__(
        self,
        store: Store,
        kafka: KafkaSettings,
        keys: Keys,
        artifacts: Artifacts,
        clock: Callable[[], datetime],
        changing: TopicsLease,
    ) -> None:
        self._store = store
        self._kafka = kafka
        self._keys = keys
        self._artifacts = artifacts
        self._clock = clock
        self.changing = changing
        """Held while topics of a pipeline are made or removed."""

    async def delete(self, name: str, *, by: str) -> Deleted:
        """Deletes it for good, or finds that done. Raises NotFound, Refused where a version of it was
        ever promoted or a prediction recorded, Unavailable without Kafka.
        """
        async with self.changing:
            known = await self._store.read(partial(_deleted_already, name=name))
            if known:
                return Deleted(known.deleted.number)
            number = await self._store.read(lambda session: _never_served(session, name))
            topics = await self._store.read(lambda session: _topics(session, name))
            # Nobody applies it anew before the deletion is written: these are the old pipeline's.
            made = await asyncio.to_thread(topics_made, self._kafka, topics)
            predictions = await asyncio.to_thread(end_offsets, self._kafka, [predictions_topic(name)])
            if any(predictions.values()):
                raise Refused("it stays: predictions of it are recorded", where=name)
            event = PipelineDeleted(pipeline=name, number=number, deleted_at=self._clock(), deleted_by=by)
            event = signed(event, self._keys.signer("registry"))
            deleted = await self._store.write(partial(_write, event))
            log.info("pipeline_deleted", pipeline=name, number=number, by=by, versions=deleted.versions)
            try:
                await self.clear(name, only=made)
            except PenstockError as error:
                log.warning("deletion_goes_on", pipeline=name, why=str(error))
            return deleted

    async def run(self) -> None:
        """Removes what is left of deleted pipelines, again and again."""
        seen: dict[str, frozenset[MadeTopic]] = {}
        while True:
            await self.clear_all(seen)
            await asyncio.sleep(AGAIN_S)

    async def clear_all(self, seen: dict[str, frozenset[MadeTopic]]) -> None:
        """Removes what is left of each deleted pipeline; of its topics those that were `seen` there the
        last time. Another replica that applies it anew makes its topics a moment before it says so.
        """
        for name in await self._store.read(lambda session: list(session.scalars(select(DeletedRow.name)))):
            async with self.changing:
                try:
                    seen[name] = await self.clear(name, only=seen.get(name, frozenset()))
                except PenstockError as error:
                    log.warning("deletion_goes_on", pipeline=name, why=str(error))

    async def clear(self, name: str, only: frozenset[MadeTopic] | None = None) -> frozenset[MadeTopic]:
        """Removes a deleted pipeline's packages, and unless it was applied anew its topics, `only` some of
        them. Returns those that there were. The caller holds `changing`. Raises Unavailable.
        """
        row = await self._store.read(lambda session: session.get_one(DeletedRow, name))
        made = await asyncio.to_thread(topics_made, self._kafka, row.topics)
        if not await self._store.write(partial(self._still_deleted, name)):
            made = frozenset()
        await asyncio.to_thread(remove_topics, self._kafka, made if only is None else made & only)
        if row.artifacts:
            kept = await self._store.read(lambda session: _kept(session, row.artifacts))
            for artifact in row.artifacts:
                if artifact.uri not in kept:
                    await asyncio.to_thread(self._artifacts.remove, artifact)
            await self._store.write(partial(_cleared, name))
        return made

    def _still_deleted(self, name: str, effect: Effect) -> bool:
        """False, too, where another replica has taken over what this one was too slow for."""
        return self.changing.keep(effect) and _deleted_already(effect.session, name) is not None


def _deleted_already(session: Session, name: str) -> DeletedRow | None:
    """Finds the deletion of a pipeline that was not applied since."""
    return None if newest_pipeline(session, name) else session.get(DeletedRow, name)


def _never_served(session: Session, name: str) -> int:
    """Finds the newest number. Raises NotFound, and Refused where a version was ever promoted."""
    row = pipeline_row(session, name)
    if champion := champion_of(session, name):
        raise Refused(
            f"it stays: {version_name(name, champion.digest)} was promoted on"
            f" {champion.promoted_at:%Y-%m-%d}, and its decisions must be traceable",
            where=name,
            remedy="`penstock stop` ends its answers; one to which nothing is published costs nothing",
        )
    return row.number


def _write(event: PipelineDeleted, effect: Effect) -> Deleted:
    """Raises Conflict where it was applied or promoted meanwhile."""
    session, name = effect.session, event.pipeline
    if _never_served(session, name) != event.number:
        raise Conflict("it was applied meanwhile", where=name, remedy="Delete it again")
    topics = _topics(session, name)
    versions = session.scalars(select(VersionRow).where(VersionRow.pipeline == name)).all()
    artifacts = [
        artifact
        for row in versions
        for artifact in (row.version.package, row.version.signature)
        if artifact.uri
    ]
    session.merge(DeletedRow(name=name, deleted=event, topics=topics, artifacts=artifacts))
    session.execute(delete(VersionRow).where(VersionRow.pipeline == name))
    session.execute(delete(PipelineRow).where(PipelineRow.name == name))
    effect.publish(event)
    return Deleted(event.number, len(versions), tuple(topics))


def _topics(session: Session, name: str) -> list[str]:
    """Lists the topics of all its files, by their names in the catalogue."""
    files = session.scalars(select(PipelineRow).where(PipelineRow.name == name))
    return sorted({topic.name for file in files for topic in pipeline_topics(file.pipeline)})


def _kept(session: Session, artifacts: list[Artifact]) -> set[str]:
    """URIs of those that versions of today hold: the same training makes the same package."""
    return {
        artifact.uri
        for row in session.scalars(select(VersionRow))
        for artifact in (row.version.package, row.version.signature)
    } & {artifact.uri for artifact in artifacts}


def _cleared(name: str, effect: Effect) -> None:
    effect.session.get_one(DeletedRow, name).artifacts = []
