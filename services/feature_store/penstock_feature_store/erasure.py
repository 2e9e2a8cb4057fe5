"""A person leaves: lake, online store and training sets are rewritten without the entity's rows.

What is to be done is on disk before it begins and gone when it is done: a crash in between is made
good at the next start. Every step may be repeated. Kafka's topics keep events until they expire,
models and audits hold no rows; both are said where a person asks for erasure.
"""

from __future__ import annotations

import hashlib
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import structlog
from pydantic import BaseModel
from sqlalchemy import select
from ulid import ULID

from penstock.contracts.digests import digest_of
from penstock.contracts.errors import NotFound, PenstockError, Tampered, Unavailable
from penstock.contracts.events import Artifact, TrainingSet
from penstock.contracts.pipeline import Pipeline
from penstock.packages.facts import signed
from penstock.packages.keys import Keys
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.store import Store
from penstock_feature_store.lake import durable
from penstock_feature_store.lake.lake import Lake
from penstock_feature_store.online.stores import OnlineStores
from penstock_feature_store.store import PipelineRow, TrainingSetRow
from penstock_feature_store.training.join import manifest_key
from penstock_feature_store.training.parts import without
from penstock_feature_store.training.splits import PARTS

log = structlog.get_logger(__name__)


class Erased(NamedTuple):
    lake_rows: int
    online: bool
    training_set_rows: int


class Leaving(BaseModel):
    """Rows of one part: that go, that stay, and that were removed in all, earlier erasures included.
    Totals, so that writing them twice changes nothing.
    """

    gone: int
    rows: int
    left: int


class Journal(BaseModel):
    """An erasure that has begun. Holds the entity's name, so it does not outlive the erasure.

    `leaving`: counts by training set and part, noted before the part is rewritten.
    """

    pipeline: str
    entity: str
    leaving: dict[str, dict[str, Leaving]] = {}


class Erasures:
    """Blocking. The caller holds the pipeline's gate and its online lock."""

    def __init__(
        self,
        store: Store,
        lake: Lake,
        artifacts: Artifacts,
        stores: OnlineStores,
        repositories: Path,
        folder: Path,
        keys: Keys,
    ) -> None:
        self._store = store
        self._lake = lake
        self._artifacts = artifacts
        self._stores = stores
        self._repositories = repositories
        self._folder = folder
        self._keys = keys
        folder.mkdir(parents=True, exist_ok=True)

    def erase(self, pipeline: str, entity: str) -> Erased:
        """Raises NotFound for a pipeline that was never applied; Unavailable where a store is away,
        and then `finish` goes on.
        """
        self._pipeline(pipeline)
        path = self._folder / f"{ULID()}.json"
        journal = Journal(pipeline=pipeline, entity=entity)
        durable.write_bytes(path, journal.model_dump_json().encode())
        try:
            return self._run(path, journal)
        except Unavailable as error:
            raise Unavailable(
                f"{error.message}; the erasure has begun and goes on by itself",
                where=error.where,
                remedy=error.remedy,
            ) from error

    def resume(self) -> int:
        """Finishes what a crash interrupted; how many. Before anything reads or writes."""
        for unfinished in self._folder.glob(f"{durable.UNFINISHED}*"):
            unfinished.unlink()
        begun = self.begun()
        for path, _ in begun:
            self.finish(path)
        return len(begun)

    def begun(self) -> list[tuple[Path, str]]:
        """Erasures that have begun and not ended: journal and pipeline."""
        found = []
        for path in sorted(self._folder.glob("[!.]*.json")):
            with suppress(FileNotFoundError):  # ended meanwhile
                found.append((path, Journal.model_validate_json(path.read_bytes()).pipeline))
        return found

    def finish(self, path: Path) -> bool:
        """Goes on with one that a crash or a store that was away interrupted. False where that does
        not work yet.
        """
        try:
            if path.exists():
                journal = Journal.model_validate_json(path.read_bytes())
                if self._is_deleted(journal.pipeline):
                    durable.remove(path)
                else:
                    self._run(path, journal)
        except PenstockError as error:
            log.error("erasure_stuck", journal=str(path), error=str(error))
            return False
        return True

    def _run(self, path: Path, journal: Journal) -> Erased:
        pipeline = self._pipeline(journal.pipeline)
        sources = self._sources(pipeline)
        rows = sum(self._lake.source(journal.pipeline, source).erase(journal.entity) for source in sources)
        with closing(self._stores.open(self._repositories / journal.pipeline, pipeline)) as online:
            was_online = online.erase(sources, journal.entity)
        with self._store.snapshot() as session:
            sets = session.scalars(
                select(TrainingSetRow).where(TrainingSetRow.pipeline == journal.pipeline)
            ).all()
        left = sum(self._from_training_set(row.id, row.body, path, journal) for row in sets)
        durable.remove(path)
        log.info(
            "entity_erased",
            pipeline=journal.pipeline,
            entity_sha256=hashlib.sha256(journal.entity.encode()).hexdigest()[:12],
            lake_rows=rows,
            online=was_online,
            training_set_rows=left,
        )
        return Erased(rows, was_online, left)

    def _pipeline(self, name: str) -> Pipeline:
        with self._store.snapshot() as session:
            row = session.scalars(
                select(PipelineRow).where(PipelineRow.name == name).order_by(PipelineRow.number.desc())
            ).first()
        if row is None:
            raise NotFound(f"no pipeline `{name}`", remedy="See `penstock pipelines`")
        return row.spec

    def _is_deleted(self, name: str) -> bool:
        """Tells whether all that was to leave went with the pipeline. Where its lake is there, it is the
        database that was lost, and its files come again.
        """
        try:
            self._pipeline(name)
        except NotFound:
            return not (self._lake.root / name).exists()
        return False

    def _sources(self, pipeline: Pipeline) -> list[str]:
        """Lists sources that may hold rows of this entity: declared ones about another entity are left
        alone, those that are no longer declared are not.
        """
        stored = [folder.name for folder in (self._lake.root / pipeline.pipeline).glob("*/")]
        other = {name for name, source in pipeline.sources.items() if source.entity != pipeline.entity}
        return sorted({*pipeline.sources, *stored} - other)

    def _from_training_set(self, training_set: str, made: TrainingSet, path: Path, journal: Journal) -> int:
        """Rows that left. The part is replaced first, then the row that knows its digest: in
        between lies only the journal's note.
        """
        replaced = {
            name: artifact
            for name in PARTS
            if (artifact := self._without(training_set, made, name, path, journal))
        }
        leaving = journal.leaving.get(training_set, {})
        if not leaving:
            return 0
        rows = made.rows | {name: part.rows for name, part in leaving.items()}
        left = made.left | {name: part.left for name, part in leaving.items()}
        changed = made.model_copy(update={**replaced, "rows": rows, "left": left})
        changed = signed(changed, self._keys.signer("feature_store"))
        self._artifacts.put_bytes(manifest_key(training_set), changed.model_dump_json(indent=2).encode())
        with self._store.transaction() as effect:
            effect.session.get_one(TrainingSetRow, training_set).body = changed
        return sum(part.gone for part in leaving.values())

    def _without(
        self, training_set: str, made: TrainingSet, part: str, path: Path, journal: Journal
    ) -> Artifact | None:
        """The part without the entity; None where it is not in it, or the part is gone."""
        artifact: Artifact = getattr(made, part)
        try:
            data = self._artifacts.read_unchecked(artifact)  # after a crash it may have its new bytes
        except NotFound:
            return None
        noted = part in journal.leaving.get(training_set, {})
        if digest_of(data) != artifact.digest and not noted:
            raise Tampered(
                "these are not the bytes that were written",
                where=artifact.uri,
                remedy="Delete the training set, then erase again",
            )
        data, gone = without(data, journal.entity)
        if gone and not noted:
            leaving = Leaving(gone=gone, rows=made.rows[part] - gone, left=made.left.get(part, 0) + gone)
            journal.leaving.setdefault(training_set, {})[part] = leaving
            durable.write_bytes(path, journal.model_dump_json().encode())
        return self._artifacts.replace(artifact, data) if gone or noted else None
