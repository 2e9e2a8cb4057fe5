"""A registry on real parts but Kafka: store, artifacts, keys, packages. Events go in by the router
and come out of the outbox.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from penstock.contracts.events import (
    Artifact,
    AuditCompleted,
    Envelope,
    Event,
    GateResult,
    ModelVersionPromoted,
    ReviewDecided,
    TrainingRunCompleted,
    decode,
    encode,
)
from penstock.packages import facts
from penstock.packages.archive import pack
from penstock.packages.keys import Keys
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.cloud_events import Received
from penstock.runtime.store import Store
from penstock.runtime.tables import OutboxRow
from penstock.testing import lending
from penstock.testing import packages as sample
from penstock.testing.plugin import Databases
from penstock.testing.stores import migrated
from penstock.testing.threads import in_a_thread
from penstock_model_registry import handlers
from penstock_model_registry import store as rows
from penstock_model_registry.app import MIGRATIONS
from penstock_model_registry.packages import Packages
from penstock_model_registry.registry import Registry
from penstock_model_registry.store import PipelineRow, Tables


class World:
    def __init__(self, home: Path, new_database: Callable[[], str], root: str) -> None:
        self.home = home
        self.new_database = new_database
        self.database = migrated(new_database(), MIGRATIONS)
        self.keys = Keys(home / "keys")
        self.keys.ensure(sample.NOW)
        self.artifacts = Artifacts(root)
        self.packages = Packages(self.artifacts, self.keys)
        self._numbers = itertools.count(1)
        self.start()

    def start(self) -> None:
        """As after a restart: everything in memory is new."""
        self.store = Store.open(self.database, Tables.metadata, migrations=MIGRATIONS)
        self.registry = Registry(
            self.store, self.packages, self.artifacts, self.keys, lambda: datetime.now(UTC)
        )
        self.router = handlers.router(self.registry, self.store)

    def lose_database(self) -> None:
        """And start with an empty one."""
        self.store.close()
        self.database = migrated(self.new_database(), MIGRATIONS)
        self.start()

    # -- in ----------------------------------------------------------------------------------------

    async def receives(self, event: Event, event_id: str | None = None) -> None:
        received = Received(
            event.topic, 0, 0, event_id or f"event-{next(self._numbers)}", event.ce_type(), {}, encode(event)
        )
        await self.router.handle(received)

    def applies(self, text: str = lending.PIPELINE_TEXT, number: int = 1) -> None:
        event = sample.applied(self.keys, text, number)
        with in_a_thread(self.store.transaction()) as effect:
            effect.session.add(PipelineRow(name="loans", number=number, text=text, applied=event))

    def run(
        self, card: str = "# loans\n", run_id: str = "R1", number: int = 1, **package: Any
    ) -> TrainingRunCompleted:
        """A trained package in the artifact store, and the event that announces it."""
        directory = self.home / f"trained-{next(self._numbers)}"
        digest = sample.write_package(directory, card=card, **package)
        pack(directory, directory.with_suffix(".tar"))
        package = self.artifacts.put_file(f"packages/{digest[7:]}.tar", directory.with_suffix(".tar"))
        run = TrainingRunCompleted(
            run_id=run_id,
            pipeline="loans",
            pipeline_number=number,
            training_set=facts.signed(sample.training_set(), self.keys.signer("feature_store")),
            package=package,
            digest=digest,
            metrics={"auroc": 0.9},
            completed_at=sample.NOW,
        )
        return self.signs(run)

    def signs(self, run: TrainingRunCompleted, **changed: Any) -> TrainingRunCompleted:
        """The run with what changed, as the trainer states it."""
        return facts.signed(run.model_copy(update=changed), self.keys.signer("trainer"))

    def audit(
        self,
        digest: str,
        *gates: GateResult,
        audit_id: str = "A1",
        scores: Artifact | None = None,
        judged: bool = True,
    ) -> AuditCompleted:
        gates = (gates or (sample.AUROC_PASSED, sample.gate())) if judged else ()
        said = {one.verdict for one in gates}
        named = json.dumps({"scores_digest": scores.digest if scores else ""}).encode()
        result = self.artifacts.put_bytes(f"audits/{digest[7:]}/{audit_id}.json", named)
        return AuditCompleted.model_validate(
            {
                "audit_id": audit_id,
                "pipeline": "loans",
                "digest": digest,
                "verdict": "fail" if "fail" in said else "inconclusive" if "inconclusive" in said else "pass",
                "gates": gates,
                "evidence": sample.verdict(
                    self.keys,
                    digest,
                    *gates,
                    audit_id=audit_id,
                    result_digest=result.digest,
                    judged=judged,
                ),
                "report": sample.NOWHERE,
                "result": result,
                "scores": scores,
                "completed_at": sample.NOW,
            }
        )

    def review(self, digest: str, waiver: Envelope | None, audit_id: str = "A1") -> ReviewDecided:
        return ReviewDecided(
            pipeline="loans",
            digest=digest,
            audit_id=audit_id,
            decision="approved" if waiver else "rejected",
            decided_by="Ada",
            why="too few rows" if waiver else "so",
            waiver=waiver,
            decided_at=sample.NOW,
            rejection=None if waiver else sample.rejection(self.keys, digest, audit_id=audit_id),
        )

    def scores(self, name: str, quality: float, rows: int = 600) -> Artifact:
        """What an audit keeps: the same rows and labels each time, answered better with a higher
        `quality`.
        """
        generator = np.random.default_rng(5)
        labels = generator.integers(0, 2, rows)
        chance = 1 / (1 + np.exp(-(quality * (2 * labels - 1) + generator.normal(size=rows))))
        hashes = np.array([f"{row:05d}" for row in range(rows)], np.bytes_)
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer, row=hashes, entity=hashes, label=labels.astype(float), probability=chance, decision=labels
        )
        return self.artifacts.put_bytes(f"scores/{name}.npz", buffer.getvalue())

    async def promotes(self, card: str, audit_id: str = "A1") -> str:
        """A version that went the whole way."""
        run = self.run(card, run_id=card)
        await self.receives(run)
        await self.receives(self.audit(run.digest, audit_id=audit_id, scores=self.scores(card, 2.0)))
        return run.digest

    # -- out ---------------------------------------------------------------------------------------

    def published(self, kind: type[Event] | None = None) -> list[Event]:
        with in_a_thread(self.store.snapshot()) as session:
            found = [
                decode(row.event_type, row.value)
                for row in session.scalars(select(OutboxRow).order_by(OutboxRow.id))
            ]
        return [event for event in found if event is not None and (kind is None or isinstance(event, kind))]

    def promotions(self) -> list[ModelVersionPromoted]:
        return [event for event in self.published() if isinstance(event, ModelVersionPromoted)]

    def state(self, digest: str) -> tuple[str, list[str]]:
        with in_a_thread(self.store.snapshot()) as session:
            row = rows.find_version(session, digest)
            return row.state, row.because


@pytest.fixture
def world(tmp_path: Path, databases: Databases, root: str) -> Iterator[World]:
    with ExitStack() as stack:
        world = World(tmp_path, lambda: stack.enter_context(databases()), root)
        world.applies()
        yield world
        world.store.close()
