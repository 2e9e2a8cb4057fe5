"""Whoever can write to Kafka states what is not theirs to state: with a key that nobody knows, with
the key of another role, with what was signed for something else, with an old fact once more. The
services' own handlers read it; no row changes and no event follows, and each is a dead letter, which
is counted and logged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, select
from ulid import ULID

from penstock.contracts.errors import Invalid, Tampered
from penstock.contracts.events import (
    EVENTS,
    AuditCompleted,
    AuditFailed,
    AuditStarted,
    DeploymentChanged,
    Envelope,
    Event,
    ModelVersion,
    ModelVersionPromoted,
    ModelVersionRefused,
    ModelVersionRegistered,
    PipelineApplied,
    PipelineDeleted,
    ReviewDecided,
    ReviewRequested,
    SiteReported,
    TrainingRunCanceled,
    TrainingRunCompleted,
    TrainingRunFailed,
    TrainingRunProgressed,
    TrainingRunRequested,
    TrainingRunStarted,
    TuningStudyCanceled,
    TuningStudyCompleted,
    TuningStudyFailed,
    TuningStudyRequested,
    TuningStudyStarted,
    TuningTrialEnded,
    encode,
)
from penstock.contracts.pipeline import Audit
from penstock.packages import archive, facts
from penstock.packages.keys import ROLES, Keys, Role, Signer
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.cloud_events import Received
from penstock.runtime.pipelines import AppliedPipelines
from penstock.runtime.restore import History
from penstock.runtime.router import Router, may_pass
from penstock.runtime.store import Store
from penstock.runtime.tables import InboxRow, RuntimeTables
from penstock.testing import lending
from penstock.testing import packages as sample
from penstock.testing.stores import new_store
from penstock.testing.threads import in_a_thread

NOT_SIGNED: dict[type[Event], str] = {
    TrainingRunRequested: "a wish, which whoever reaches the door may have; what its run makes is judged",
    TuningStudyRequested: "a wish as a run's: what its study finds is a run, which is judged",
    **dict.fromkeys(
        (TuningStudyStarted, TuningTrialEnded, TuningStudyCompleted, TuningStudyFailed, TuningStudyCanceled),
        "no service reads it: studies are the tuner's own rows",
    ),
    TrainingRunProgressed: "no service reads it: curves are the trainer's own rows",
    ReviewRequested: "no service reads it: reviews are the audit's own rows",
    SiteReported: "no service reads it: what a site said of itself is in the hub's own rows",
    DeploymentChanged: "no service reads it, nor does the command line: inference tells what it serves",
}
LATER = sample.NOW + timedelta(days=1)


@dataclass
class Attack:
    """Keys of the platform and of a stranger, and a package that a run handed in."""

    folder: Path
    keys: Keys
    stranger: Keys
    artifacts: Artifacts
    run: TrainingRunCompleted

    def signer(self, role: Role, key: str) -> Signer:
        """Forger of `role`: with the stranger's key of it, or with the platform's key of another."""
        if key == "unknown":
            return self.stranger.signer(role)
        other: Role = next(one for one in ROLES if one != role)
        return dataclasses.replace(self.keys.signer(other), role=role)

    def store(self, name: str, migrations: str) -> Store:
        """A service's new database."""
        return new_store(f"sqlite:///{self.folder}/{name}.db", migrations)


@pytest.fixture
def attack(tmp_path: Path) -> Attack:
    keys, stranger = Keys(tmp_path / "keys"), Keys(tmp_path / "stranger")
    for made in (keys, stranger):
        made.ensure(sample.NOW - timedelta(days=1))
    artifacts = Artifacts(f"file://{tmp_path}/artifacts")
    digest = sample.write_package(tmp_path / "package")
    archive.pack(tmp_path / "package", tmp_path / "package.tar")
    run = TrainingRunCompleted(
        run_id="R1",
        pipeline="loans",
        pipeline_number=1,
        training_set=facts.signed(lending.training_set(), keys.signer("feature_store")),
        package=artifacts.put_file("packages/1.tar", tmp_path / "package.tar"),
        digest=digest,
        metrics={"auroc": 0.9},
        completed_at=sample.NOW,
    )
    return Attack(tmp_path, keys, stranger, artifacts, facts.signed(run, keys.signer("trainer")))


# -- who reads -------------------------------------------------------------------------------------


@dataclass
class Reader:
    router: Router
    store: Store
    tables: MetaData
    counted: list[str] = dataclasses.field(default_factory=list)
    rejected: list[Exception] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        count = self.router.count

        def counted(topic: str, outcome: str, events: int = 1) -> None:
            self.counted.append(outcome)
            count(topic, outcome, events)

        self.router.count = counted  # type: ignore[method-assign]

    def state(self) -> dict[str, list[Any]]:
        with in_a_thread(self.store.snapshot()) as session:
            return {
                table.name: [tuple(row) for row in session.execute(select(table))]
                for metadata in (self.tables, RuntimeTables.metadata)
                for table in metadata.sorted_tables
                if table.name != InboxRow.__tablename__
            }

    async def receives(self, event: Event) -> None:
        """As the consumer hands it in, or the replay."""
        received = Received(event.topic, 0, 0, str(ULID()), event.ce_type(), {}, encode(event))
        if event.ce_type() in self.router.replays:
            await self.router.replay(received, self.reject)
        else:
            await self.router.handle(received)

    async def reject(self, _received: Received, error: Exception, _tries: int) -> None:
        """Where the service writes a dead letter, a log line and a count."""
        self.rejected.append(error)

    async def refuses(self, event: Event) -> None:
        """Nothing changes, and it is not waited for: a dead letter, or left out of the replay."""
        before = self.state()
        if event.ce_type() in self.router.replays:
            self.counted.clear()
            self.rejected.clear()
            await self.receives(event)
            assert self.counted == ["left_out"]
            assert [type(error) in (Tampered, Invalid) for error in self.rejected] == [True]
        else:
            with pytest.raises((Tampered, Invalid)) as refused:  # beyond the bounds it is no event
                await self.receives(event)
            assert not may_pass(refused.value)
        assert self.state() == before


@contextmanager
def registry(attack: Attack) -> Iterator[Reader]:
    from penstock_model_registry import handlers
    from penstock_model_registry.app import MIGRATIONS
    from penstock_model_registry.packages import Packages
    from penstock_model_registry.registry import Registry
    from penstock_model_registry.store import PipelineRow, Tables

    store = attack.store("registry", MIGRATIONS)
    packages = Packages(attack.artifacts, attack.keys)
    made = Registry(store, packages, attack.artifacts, attack.keys, lambda: datetime.now(UTC))
    with in_a_thread(store.transaction()) as effect:
        effect.session.add(PipelineRow.of(sample.applied(attack.keys)))
    yield Reader(handlers.router(made, store), store, Tables.metadata)
    store.close()


@contextmanager
def feature_store(attack: Attack) -> Iterator[Reader]:
    from penstock_feature_store import handlers
    from penstock_feature_store.lake.arrivals import Arrivals
    from penstock_feature_store.store import Tables, begin_run

    store = attack.store("features", "penstock_feature_store.migrations")
    with in_a_thread(store.transaction()) as effect:
        begin_run(effect.session, "R1", "loans")
    yield Reader(handlers.router(Arrivals(), store, attack.keys), store, Tables.metadata)
    store.close()


@contextmanager
def audit(attack: Attack) -> Iterator[Reader]:
    from penstock_ethics_audit import handlers
    from penstock_ethics_audit.desk import Desk
    from penstock_ethics_audit.store import AskedRow, Tables

    store = attack.store("audit", "penstock_ethics_audit.migrations")
    with in_a_thread(store.transaction()) as effect:
        effect.session.add(AskedRow(pipeline="loans", number=1, audit=Audit()))
    desk = Desk(attack.keys, attack.artifacts.root, lambda: datetime.now(UTC))
    yield Reader(handlers.router(desk, store), store, Tables.metadata)
    store.close()


@contextmanager
def follower(attack: Attack) -> Iterator[Reader]:
    """The audit's copy of what pipelines ask; all services follow pipelines by this class."""
    from penstock_ethics_audit import handlers
    from penstock_ethics_audit.desk import Desk
    from penstock_ethics_audit.store import Tables

    store = attack.store("asked", "penstock_ethics_audit.migrations")
    desk = Desk(attack.keys, attack.artifacts.root, lambda: datetime.now(UTC))
    applied: AppliedPipelines = handlers.applied(desk, store, attack.keys)
    assert applied.router is not None
    yield Reader(applied.router, store, Tables.metadata)
    store.close()


@contextmanager
def history_of_the_registry(attack: Attack) -> Iterator[Reader]:
    """A registry whose database is lost, while it reads what it announced."""
    from penstock_model_registry.app import MIGRATIONS
    from penstock_model_registry.history import History
    from penstock_model_registry.store import Tables

    store = attack.store("lost", MIGRATIONS)
    yield reading(History(store, attack.keys), store, Tables.metadata)
    store.close()


@contextmanager
def history_of_the_audit(attack: Attack) -> Iterator[Reader]:
    from penstock_ethics_audit.desk import Desk
    from penstock_ethics_audit.history import History
    from penstock_ethics_audit.store import Tables

    store = attack.store("lost", "penstock_ethics_audit.migrations")
    desk = Desk(attack.keys, attack.artifacts.root, lambda: datetime.now(UTC))
    yield reading(History(store, desk, attack.keys), store, Tables.metadata)
    store.close()


def reading(history: History, store: Store, tables: MetaData) -> Reader:
    history.router = Router("history")
    history.reading(history.router)
    return Reader(history.router, store, tables)


class Anybody(Reader):
    """No service reads it; whoever will, asks this first."""

    def __init__(self, attack: Attack) -> None:
        self.trust = attack.keys.trust()

    async def receives(self, event: Event) -> None:
        facts.verify_fact(event, self.trust)  # type: ignore[arg-type]

    async def refuses(self, event: Event) -> None:
        with pytest.raises(Tampered):
            await self.receives(event)


@contextmanager
def anybody(attack: Attack) -> Iterator[Reader]:
    yield Anybody(attack)


# -- what they read --------------------------------------------------------------------------------

Forge = Callable[[Attack, Signer], Event]


def pipeline(attack: Attack, by: Signer) -> PipelineApplied:
    return facts.signed(sample.applied(attack.keys, number=3), by)


def deletion(attack: Attack, by: Signer) -> PipelineDeleted:
    return facts.signed(sample.deleted(attack.keys), by)


def completed(attack: Attack, by: Signer) -> TrainingRunCompleted:
    return facts.signed(attack.run, by)


def on_other_rows(attack: Attack, by: Signer) -> TrainingRunCompleted:
    """The trainer's own signature, over a training set that the feature store did not make."""
    made = facts.signed(lending.training_set(audit=attack.run.package), by)
    run = attack.run.model_copy(update={"training_set": made})
    return facts.signed(run, attack.keys.signer("trainer"))


def started(attack: Attack, by: Signer) -> TrainingRunStarted:
    said = attack.run.model_dump(include=set(TrainingRunStarted.model_fields) - {"evidence"})
    return facts.signed(TrainingRunStarted(**said, started_at=sample.NOW), by)


def failed(_attack: Attack, by: Signer) -> TrainingRunFailed:
    said = {"kind": "conflict", "reason": "no rows", "remedy": "Publish more", "failed_at": sample.NOW}
    return facts.signed(TrainingRunFailed(run_id="R1", pipeline="loans", **said), by)  # type: ignore[arg-type]


def canceled(_attack: Attack, by: Signer) -> TrainingRunCanceled:
    event = TrainingRunCanceled(run_id="R1", pipeline="loans", canceled_at=sample.NOW, canceled_by="Ada")
    return facts.signed(event, by)


def honest_version(attack: Attack) -> ModelVersion:
    return sample.version(attack.run.digest, attack.keys)


def version(attack: Attack, by: Signer) -> ModelVersionRegistered:
    honest = honest_version(attack)
    said = honest.model_dump(include=set(TrainingRunCompleted.model_fields) - {"evidence"})
    run = facts.signed(TrainingRunCompleted(**said, completed_at=sample.NOW), by)
    return sample.registered(attack.keys, honest.model_copy(update={"run": run.evidence}))


def version_of_a_set(attack: Attack, by: Signer) -> ModelVersionRegistered:
    honest = honest_version(attack)
    made = facts.signed(honest.training_set, by)
    return sample.registered(attack.keys, honest.model_copy(update={"training_set": made}))


def registered_version(attack: Attack, by: Signer) -> ModelVersionRegistered:
    return facts.signed(ModelVersionRegistered(version=honest_version(attack)), by)


def refused(attack: Attack, by: Signer) -> ModelVersionRefused:
    event = ModelVersionRefused(version=honest_version(attack), because=("so",), refused_at=sample.NOW)
    return facts.signed(event, by)


def promotion(attack: Attack) -> ModelVersionPromoted:
    proof = sample.verdict(attack.keys, attack.run.digest)
    return sample.promotion(attack.keys, honest_version(attack), proof)


def promoted(attack: Attack, by: Signer) -> ModelVersionPromoted:
    return facts.signed(promotion(attack).model_copy(update={"promoted_by": "Ada"}), by)


def granted(attack: Attack, by: Signer) -> ModelVersionPromoted:
    """The registry's own statement, over a grant that it did not sign."""
    honest, proof = promotion(attack), sample.verdict(attack.keys, attack.run.digest)
    grant = sample.promotion(Signing(by), honest.version, proof).promotion  # type: ignore[arg-type]
    return facts.signed(honest.model_copy(update={"promotion": grant}), attack.keys.signer("registry"))


def audit_started(attack: Attack, by: Signer) -> AuditStarted:
    event = AuditStarted(audit_id="A1", pipeline="loans", digest=attack.run.digest, started_at=sample.NOW)
    return facts.signed(event, by)


def audit_failed(attack: Attack, by: Signer) -> AuditFailed:
    said: dict[str, Any] = {"audit_id": "A1", "pipeline": "loans", "digest": attack.run.digest}
    event = AuditFailed(**said, reason="no rows", remedy="Publish more", failed_at=sample.NOW)
    return facts.signed(event, by)


def verdict(attack: Attack, by: Signer) -> AuditCompleted:
    return audited(attack, sample.verdict(Signing(by), attack.run.digest))  # type: ignore[arg-type]


def rejected(attack: Attack, by: Signer) -> ReviewDecided:
    return decided(attack, rejection=sample.rejection(Signing(by), attack.run.digest))  # type: ignore[arg-type]


def approved(attack: Attack, by: Signer) -> ReviewDecided:
    waiver = sample.waiver(Signing(by), attack.run.digest, sample.gate("fail"))  # type: ignore[arg-type]
    return decided(attack, waiver=waiver)


@dataclass
class Signing:
    """Keys whose every role is one signer."""

    by: Signer

    def signer(self, role: Role) -> Signer:
        assert role == self.by.role
        return self.by


def audited(attack: Attack, evidence: Envelope, audit_id: str = "A1", **gates: Any) -> AuditCompleted:
    said: dict[str, Any] = {"verdict": "pass", "gates": (sample.AUROC_PASSED, sample.gate())} | gates
    return AuditCompleted(
        audit_id=audit_id,
        pipeline="loans",
        digest=attack.run.digest,
        evidence=evidence,
        report=sample.NOWHERE,
        result=sample.NOWHERE,
        completed_at=sample.NOW,
        **said,
    )


def decided(
    attack: Attack, *, waiver: Envelope | None = None, rejection: Envelope | None = None, audit_id: str = "A1"
) -> ReviewDecided:
    return ReviewDecided(
        pipeline="loans",
        digest=attack.run.digest,
        audit_id=audit_id,
        decision="approved" if waiver else "rejected",
        decided_by="Ada",
        why="too few rows" if waiver else "so",
        waiver=waiver,
        decided_at=sample.NOW,
        rejection=rejection,
    )


async def nothing(_reader: Reader, _attack: Attack) -> None: ...


async def in_review(reader: Reader, attack: Attack) -> None:
    """The version waits for a person."""
    gates = (sample.AUROC_PASSED, sample.gate("fail"))
    await reader.receives(attack.run)
    honest = sample.verdict(attack.keys, attack.run.digest, *gates)
    await reader.receives(audited(attack, honest, verdict="fail", gates=gates))


async def registered(reader: Reader, attack: Attack) -> None:
    await reader.receives(attack.run)


Before = Callable[[Reader, Attack], Awaitable[None]]
Open = Callable[[Attack], Any]
CASES: dict[str, tuple[Open, Before, Forge, Role]] = {
    "pipeline": (follower, nothing, pipeline, "registry"),
    "deleted pipeline": (anybody, nothing, deletion, "registry"),
    "run, to the registry": (registry, nothing, completed, "trainer"),
    "run, to the feature store": (feature_store, nothing, completed, "trainer"),
    "run that began": (anybody, nothing, started, "trainer"),
    "failed run": (feature_store, nothing, failed, "trainer"),
    "canceled run": (feature_store, nothing, canceled, "trainer"),
    "training set of a run": (registry, nothing, on_other_rows, "feature_store"),
    "version": (audit, nothing, version, "trainer"),
    "training set of a version": (audit, nothing, version_of_a_set, "feature_store"),
    "registered version": (audit, nothing, registered_version, "registry"),
    "registered version, read again": (history_of_the_registry, nothing, registered_version, "registry"),
    "refused version, to the registry": (history_of_the_registry, nothing, refused, "registry"),
    "refused version, to the audit": (history_of_the_audit, nothing, refused, "registry"),
    "promotion, to the audit": (audit, nothing, promoted, "registry"),
    "promotion, read again": (history_of_the_registry, nothing, promoted, "registry"),
    "grant, to the audit": (audit, nothing, granted, "registry"),
    "grant, read again": (history_of_the_audit, nothing, granted, "registry"),
    "audit that began": (history_of_the_audit, nothing, audit_started, "audit"),
    "failed audit": (registry, registered, audit_failed, "audit"),
    "verdict": (registry, registered, verdict, "audit"),
    "rejection": (registry, in_review, rejected, "audit"),
    "approval": (registry, in_review, approved, "audit"),
}


def test_every_event_is_signed_or_it_is_said_why_not(attack: Attack) -> None:
    stated = {type(forge(attack, attack.keys.signer(role))) for _, _, forge, role in CASES.values()}
    assert stated.isdisjoint(NOT_SIGNED)
    assert stated | NOT_SIGNED.keys() == set(EVENTS.values())


each = pytest.mark.parametrize("case", CASES)


@pytest.mark.parametrize("key", ["unknown", "of another role"])
@each
async def test_a_key_that_may_not_state_it_states_nothing(attack: Attack, case: str, key: str) -> None:
    opened, before, forge, role = CASES[case]
    with opened(attack) as reader:
        await before(reader, attack)
        await reader.refuses(forge(attack, attack.signer(role, key)))
        await reader.receives(forge(attack, attack.keys.signer(role)))  # what may be said, is heard


def changes(value: Any) -> Any:
    match value:
        case bool() | None:
            return None
        case int():
            return value + 1
        case str():
            return f"{value}x"
        case datetime():
            return LATER
        case dict():
            return value | {"other": 1}
        case tuple():
            return None
    return value.model_copy(update={"digest": "sha256:" + "9" * 64}) if hasattr(value, "digest") else None


UNSIGNED = {"gates", "report", "scores", "completed_at", "verdict", "decision", "waiver", "rejection"}


@each
async def test_a_signed_fact_says_nothing_else(attack: Attack, case: str) -> None:
    """Each field changed, under the signature over what was there; and the signature taken away."""
    opened, before, forge, role = CASES[case]
    with opened(attack) as reader:
        await before(reader, attack)
        honest = forge(attack, attack.keys.signer(role))
        forged = [honest.model_copy(update=change) for change in changed(honest)]
        if isinstance(honest, ModelVersionRegistered | ModelVersionRefused | ModelVersionPromoted):
            forged += [
                honest.model_copy(update={"version": honest.version.model_copy(update=change)})
                for change in changed(honest.version)
            ]
        assert len(forged) >= 4
        for event in forged:
            await reader.refuses(event)


def changed(fact: Any) -> list[dict[str, Any]]:
    free = UNSIGNED if isinstance(fact, AuditCompleted | ReviewDecided) else set()
    found = [
        {name: other}
        for name in type(fact).model_fields
        if name not in free and (other := changes(getattr(fact, name))) is not None
    ]
    taken = (
        []
        if isinstance(fact, AuditCompleted)
        else ["evidence", "run", "applied", "rejection", "waiver", "statement"]
    )
    return found + [{name: None} for name in taken if isinstance(getattr(fact, name, None), Envelope)]


async def test_an_older_file_of_a_pipeline_changes_nothing(attack: Attack) -> None:
    with follower(attack) as reader:
        await reader.receives(sample.applied(attack.keys, number=2))
        before = reader.state()
        await reader.receives(sample.applied(attack.keys))  # signed once, published once more
        assert reader.state() == before
        await reader.refuses(sample.applied(attack.keys, lending.PIPELINE_TEXT + "# other\n", 2))


async def test_an_older_run_verdict_and_decision_change_nothing(attack: Attack) -> None:
    gates = (sample.AUROC_PASSED, sample.gate("fail"))
    rejection = sample.rejection(attack.keys, attack.run.digest)
    waiver = sample.waiver(attack.keys, attack.run.digest, gates[1])
    newer = sample.verdict(attack.keys, attack.run.digest, *gates, audit_id="A2")
    with registry(attack) as reader:
        await in_review(reader, attack)
        await reader.receives(audited(attack, newer, "A2", verdict="fail", gates=gates))
        before = reader.state()
        for event in (
            attack.run,
            audited(attack, sample.verdict(attack.keys, attack.run.digest)),
            decided(attack, rejection=rejection),
            decided(attack, waiver=waiver),
        ):
            await reader.receives(event)
        assert reader.state() == before


async def test_a_true_run_is_not_audited_on_other_rows(attack: Attack) -> None:
    """Not even on such as the feature store made for another run."""
    honest = sample.version(attack.run.digest, attack.keys)
    rows = honest.training_set.model_copy(update={"audit": attack.run.package})
    made = facts.signed(rows, attack.keys.signer("feature_store"))
    with audit(attack) as reader:
        other = honest.model_copy(update={"training_set": made})
        await reader.refuses(sample.registered(attack.keys, other))


async def test_a_statement_of_one_kind_is_none_of_another(attack: Attack) -> None:
    made = attack.run.training_set.evidence
    with registry(attack) as reader:
        await reader.refuses(attack.run.model_copy(update={"evidence": made}))
        await in_review(reader, attack)
        await reader.refuses(decided(attack, rejection=attack.run.evidence))
        swapped = sample.waiver(attack.keys, attack.run.digest, sample.gate("fail"))
        await reader.refuses(decided(attack, rejection=swapped))


async def test_a_fact_of_a_key_that_leaked_counts_no_longer(attack: Attack) -> None:
    with registry(attack) as reader:
        attack.keys.rotate("trainer", revoke=True)
        await reader.refuses(attack.run)
        await reader.receives(facts.signed(attack.run, attack.keys.signer("trainer")))
