"""Versions: packages taken in and signed, promoted on evidence, rolled back.

Each act has two halves. The first looks and works: reads rows, fetches packages, compares models,
signs; it may be slow and may be thrown away. The second is one short transaction: it makes sure
that what the first rests on has not changed meanwhile, writes rows and events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

import structlog
from sqlalchemy.orm import Session

from penstock.contracts import metrics
from penstock.contracts.digests import short_digest
from penstock.contracts.errors import TREATMENTS, Conflict, PenstockError, Refused, Tampered, Unavailable
from penstock.contracts.events import (
    Artifact,
    AuditCompleted,
    AuditFailed,
    Envelope,
    ModelVersion,
    ModelVersionPromoted,
    ModelVersionRefused,
    ModelVersionRegistered,
    ReviewDecided,
    TrainingRunCompleted,
)
from penstock.contracts.pipeline import Gate, Pipeline
from penstock.contracts.versions import version_name
from penstock.packages import dsse, evidence
from penstock.packages.dsse import envelope_digest
from penstock.packages.evidence import Known, PromotionGrant, admissible, read_evidence
from penstock.packages.keys import Keys
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.metrics import counter
from penstock.runtime.store import Effect, Store, Write
from penstock_model_registry import promotion
from penstock_model_registry import store as rows
from penstock_model_registry.champion import measure_drop
from penstock_model_registry.packages import Packages, Signed
from penstock_model_registry.promotion import AwaitsReview, Decision, Drop, Promoted
from penstock_model_registry.store import PromotionRow, VersionRow

log = structlog.get_logger(__name__)
_PACKAGES = counter(metrics.PACKAGES)
_DECISIONS = counter(metrics.DECISIONS)

AUTOMATIC = "penstock"
"""Who promotes when nobody asked."""
_TRIES = 5
_UNSIGNED = Artifact(uri="", digest="", size=0)

Reason = Literal["promoted", "rolled_back"]


class Moved(Unavailable):
    """Somebody else changed what a decision rests on: look again."""

    def __init__(self) -> None:
        super().__init__("the registry changed meanwhile", remedy="Try again")


@dataclass(frozen=True)
class Case:
    """One version before the judge: all that a decision rests on, as it was read."""

    version: ModelVersion
    changes: int
    audit: AuditCompleted | None
    waiver: Envelope | None
    rejected: str | None
    pipeline: Pipeline
    """As last applied: its promotion policy counts."""
    gates: tuple[Gate, ...]
    """What the pipeline asked for when the version was trained."""
    champion: ModelVersionPromoted | None
    champion_audit: AuditCompleted | None

    @property
    def proof(self) -> tuple[Envelope, ...]:
        statements = (self.audit.evidence if self.audit else None, self.waiver)
        return tuple(envelope for envelope in statements if envelope is not None)

    @property
    def generation(self) -> int:
        return self.champion.generation + 1 if self.champion else 1

    @property
    def serves(self) -> bool:
        return self.champion is not None and self.champion.version.digest == self.version.digest


@dataclass(frozen=True)
class Judged:
    decision: Decision
    promoted: ModelVersionPromoted | None = None
    """Signed and checked, where the decision is Promoted."""


class Registry:
    def __init__(
        self,
        store: Store,
        packages: Packages,
        artifacts: Artifacts,
        keys: Keys,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._packages = packages
        self._artifacts = artifacts
        self._keys = keys
        self._clock = clock
        self._judging = asyncio.Lock()

    # -- packages come in --------------------------------------------------------------------------

    async def register(self, run: TrainingRunCompleted) -> Write | None:
        """A run's package becomes a version, signed and announced, or is refused with the reason on
        its row.
        """

        def look(session: Session) -> tuple[VersionRow | None, Pipeline]:
            trained_by = rows.trained_by(session, run.pipeline, run.pipeline_number)
            return session.get(VersionRow, run.digest), trained_by.pipeline

        known, applied = await self._store.read(look)
        if known is not None and known.signed:
            log.info("version_known", pipeline=run.pipeline, digest=run.digest, run_id=run.run_id)
            return None
        try:
            signed = await asyncio.to_thread(self._packages.take_in, run, applied)
            because = None
        except PenstockError as error:
            if TREATMENTS[error.kind].retry:
                raise
            signed, because = Signed(_UNSIGNED, ""), f"the package is not accepted: {error}"
        version, changes = self._version(run, signed), known.changes + 1 if known else 0
        return lambda effect: self._register(effect, version, because, changes)

    def _register(self, effect: Effect, version: ModelVersion, because: str | None, changes: int) -> None:
        effect.session.merge(
            VersionRow(
                digest=version.digest,
                pipeline=version.pipeline,
                run_id=version.run_id,
                state="refused" if because else "registered",
                version=version,
                because=[because] if because else [],
                registered_at=version.registered_at,
                changes=changes,
            )
        )
        outcome = {"pipeline": version.pipeline, "outcome": "refused" if because else "registered"}
        effect.after_commit(lambda: _PACKAGES.add(1, outcome))
        if because:
            log.error(
                "package_refused",
                pipeline=version.pipeline,
                digest=version.digest,
                run_id=version.run_id,
                reason=because,
            )
        else:
            effect.publish(ModelVersionRegistered(version=version))
            log.info(
                "version_registered",
                pipeline=version.pipeline,
                digest=version.digest,
                run_id=version.run_id,
                keyid=version.keyid,
            )

    def _version(self, run: TrainingRunCompleted, signed: Signed) -> ModelVersion:
        return ModelVersion(
            pipeline=run.pipeline,
            digest=run.digest,
            package=run.package,
            signature=signed.signature,
            keyid=signed.keyid,
            run_id=run.run_id,
            pipeline_number=run.pipeline_number,
            training_set=run.training_set,
            metrics=run.metrics,
            registered_at=self._clock(),
        )

    # -- evidence comes in -------------------------------------------------------------------------

    async def audited(self, audit: AuditCompleted) -> Write | None:
        """An audit's verdict: promoted on a pass, else refused or waiting for a review. A version
        that served before is brought back by a person alone: they rolled back from it, or it was
        replaced.

        Raises Unavailable while the version has not come in, Tampered for a forged verdict.
        """

        def look(session: Session) -> tuple[Case, bool]:
            _raise_unless_registered(session, audit.digest)
            case = _case(session, audit.digest)
            return case, not case.serves and rows.last_promotion(session, audit.digest) is not None

        async with self._judging:
            case, retired = await self._store.read(look)
            if case.audit and case.audit.audit_id >= audit.audit_id:  # ULIDs: by time
                log.info("known_audit_ignored", digest=audit.digest, audit_id=audit.audit_id)
                return None
            case = replace(case, audit=audit, waiver=None, rejected=None)
            judged = await asyncio.to_thread(self._judge, case, AUTOMATIC)
            if retired:
                judged = Judged(judged.decision)

        def write(effect: Effect) -> None:
            row = _unmoved(effect.session, case)
            row.audit, row.waiver, row.rejected = audit, None, None
            self._settle(effect, row, case, judged)

        return write

    async def reviewed(self, review: ReviewDecided) -> Write | None:
        """A person's decision. Raises Unavailable while the version or the audit has not come in,
        Tampered for a forged waiver.
        """

        def look(session: Session) -> Case:
            _raise_unless_registered(session, review.digest)
            return _case(session, review.digest)

        async with self._judging:
            case = await self._store.read(look)
            if case.audit is None or case.audit.audit_id < review.audit_id:
                raise Unavailable(
                    f"audit {review.audit_id}, which this review decides on, has not come in yet",
                    where=review.digest,
                )
            if case.audit.audit_id != review.audit_id:
                log.info("review_of_older_audit_ignored", digest=review.digest, audit_id=review.audit_id)
                return None
            if (
                case.waiver is not None or case.rejected is not None
            ):  # a decision stands, however often it is read
                log.info("known_review_ignored", digest=review.digest, audit_id=review.audit_id)
                return None
            approved = review.decision == "approved"
            case = replace(case, waiver=review.waiver if approved else None, rejected=rows.rejection(review))
            judged = await asyncio.to_thread(self._judge, case, review.decided_by)

        def write(effect: Effect) -> None:
            row = _unmoved(effect.session, case)
            row.waiver, row.rejected = case.waiver, case.rejected
            self._settle(effect, row, case, judged)

        return write

    def audit_failed(self, failed: AuditFailed, effect: Effect) -> None:
        """Nothing is known about the model; that is said where people look. Raises Unavailable
        while the version has not come in.
        """
        _raise_unless_registered(effect.session, failed.digest)
        row = effect.session.get_one(VersionRow, failed.digest)
        if row.state == "registered" and row.audit is None:
            row.because = [f"the audit could not be carried out: {failed.reason}. {failed.remedy}"]

    # -- people ask --------------------------------------------------------------------------------

    async def promote(self, reference: str, *, by: str) -> str:
        """Weighs the evidence again; returns the digest. Promoting the champion changes nothing.
        Raises Refused with every reason.
        """
        async with self._judging:
            for _ in range(_TRIES):
                case = await self._store.read(
                    lambda session: _case(session, rows.find_version(session, reference).digest)
                )
                if case.serves:
                    return case.version.digest
                _raise_unless_audited(case)
                judged = await asyncio.to_thread(self._judge, case, by)
                if await self._decided(case, judged):
                    _raise_unless_promoted(judged.decision, case.version)
                    return case.version.digest
            raise Moved

    async def roll_back(self, pipeline: str, *, by: str, from_generation: int = 0) -> str:
        """The version that was promoted before serves again, as a new generation; returns its
        digest. Raises Conflict, Refused.

        With `from_generation` it happens once: the same call again, after an answer that was lost,
        finds it done.
        """
        async with self._judging:
            for _ in range(_TRIES):
                found = await self._store.read(
                    lambda session: _rolled_back_or_before(session, pipeline, from_generation)
                )
                if isinstance(found, str):
                    return found
                judged = await asyncio.to_thread(self._judge, found, by, "rolled_back")
                _raise_unless_promoted(judged.decision, found.version)
                if await self._decided(found, judged):
                    return found.version.digest
            raise Moved

    async def _decided(self, case: Case, judged: Judged) -> bool:
        """Makes the decision true. False, and nothing changed, where what it rests on has moved."""
        try:
            await self._store.write(
                lambda effect: self._settle(effect, _unmoved(effect.session, case), case, judged)
            )
        except Moved:
            return False
        return True

    # -- the two halves of a decision --------------------------------------------------------------

    def _judge(self, case: Case, by: str, reason: Reason = "promoted") -> Judged:
        """Verifies, compares, weighs and, when it comes to that, signs. Blocking; writes nothing."""
        proven = self._verified(case)
        drop: Drop | None = None
        found = ""
        doubts: list[str] = []
        if proven.verdict and not evidence.closed_gates(proven.verdict, proven.waiver):
            try:
                found = self._packages.verify(case.version)
                if reason == "promoted" and not case.serves:
                    drop = self._drop(case)
            except PenstockError as error:
                if TREATMENTS[error.kind].retry:
                    raise
                doubts.append(str(error))
        decision = promotion.weigh(
            proven, case.gates, drop, case.pipeline.promotion, generation=case.generation, doubts=doubts
        )
        if not isinstance(decision, Promoted) or case.serves:
            return Judged(decision)
        event = self._grant(case, by, reason)
        known = Known(case.champion.generation, case.champion.version.digest) if case.champion else None
        if wrong := admissible(event, self._keys.trust(), found, known):
            return Judged(promotion.Refused(tuple(wrong)))
        return Judged(decision, event)

    def _verified(self, case: Case) -> promotion.Evidence:
        """The statements behind a case. Raises Tampered where one is forged or is about something else."""
        if case.audit is None:
            return promotion.Evidence(None, rejected=case.rejected)
        verdict, waiver = read_evidence(case.proof, self._keys.trust())
        for statement in (verdict, waiver):
            if statement and (statement.pipeline, statement.digest) != (
                case.version.pipeline,
                case.version.digest,
            ):
                raise Tampered(
                    f"the evidence is about {version_name(statement.pipeline, statement.digest)}",
                    where=case.version.digest,
                )
        if (verdict.audit_id, verdict.verdict, verdict.gates) != (
            case.audit.audit_id,
            case.audit.verdict,
            case.audit.gates,
        ):
            raise Tampered("the audit says other than its signed verdict", where=case.audit.audit_id)
        if verdict.result_digest != case.audit.result.digest:
            raise Tampered(
                "the audit's result is not the one that its verdict was signed for", where=case.audit.audit_id
            )
        return promotion.Evidence(verdict, waiver, case.rejected)

    def _drop(self, case: Case) -> Drop | None:
        if case.champion is None or case.pipeline.promotion.compare == "none":
            return None
        return measure_drop(self._artifacts, case.pipeline, case.champion_audit, case.audit)

    def _grant(self, case: Case, by: str, reason: Reason) -> ModelVersionPromoted:
        now = self._clock()
        grant = PromotionGrant(
            pipeline=case.version.pipeline,
            digest=case.version.digest,
            at=now,
            generation=case.generation,
            evidence=tuple(envelope_digest(envelope) for envelope in case.proof),
        )
        return ModelVersionPromoted(
            version=case.version,
            generation=case.generation,
            evidence=case.proof,
            promotion=dsse.sign(grant, self._keys.signer("registry")),
            reason=reason,
            promoted_at=now,
            promoted_by=by,
        )

    def _settle(self, effect: Effect, row: VersionRow, case: Case, judged: Judged) -> None:
        """The decision as rows and events. What serves keeps serving, whatever a later audit says:
        a person rolls back.
        """
        row.changes += 1
        match judged.decision:
            case Promoted():
                if judged.promoted is not None:
                    self._promote(effect, row, case, judged.promoted)
                    self._count(effect, row, judged.promoted.reason)
            case AwaitsReview(because=because):
                self._refuse(effect, row, case, (*because, "waits for a review"))
                self._count(effect, row, "awaits_review")
            case promotion.Refused(because=because):
                self._refuse(effect, row, case, because)
                self._count(effect, row, "refused")

    @staticmethod
    def _count(effect: Effect, row: VersionRow, decision: str) -> None:
        decided = {"pipeline": row.pipeline, "decision": decision}
        effect.after_commit(lambda: _DECISIONS.add(1, decided))

    def _refuse(self, effect: Effect, row: VersionRow, case: Case, because: tuple[str, ...]) -> None:
        if list(because) != row.because and row.state in ("registered", "refused"):
            effect.publish(
                ModelVersionRefused(version=case.version, because=because, refused_at=self._clock())
            )
        row.because = list(because)
        if row.state == "registered":
            row.state = "refused"
        log.info(
            "version_refused",
            version=version_name(row.pipeline, row.digest),
            state=row.state,
            because=because,
        )

    def _promote(self, effect: Effect, row: VersionRow, case: Case, promoted: ModelVersionPromoted) -> None:
        if case.champion is not None:
            before = effect.session.get(VersionRow, case.champion.version.digest)
            if before is not None:
                before.state, before.changes = "retired", before.changes + 1
        row.state, row.because = "promoted", []
        effect.session.add(
            PromotionRow(
                pipeline=row.pipeline,
                generation=promoted.generation,
                digest=row.digest,
                reason=promoted.reason,
                promoted=promoted,
                promoted_at=promoted.promoted_at,
            )
        )
        effect.publish(promoted)
        log.info(
            "version_promoted",
            version=version_name(row.pipeline, row.digest),
            generation=promoted.generation,
            reason=promoted.reason,
            by=promoted.promoted_by,
        )


def _case(session: Session, digest: str) -> Case:
    """Raises NotFound for a version that was never registered."""
    row = rows.find_version(session, digest)
    newest = rows.pipeline_row(session, row.pipeline)
    trained_by = rows.trained_by(session, row.pipeline, row.version.pipeline_number)
    champion = rows.champion_of(session, row.pipeline)
    champion_row = session.get(VersionRow, champion.digest) if champion else None
    return Case(
        version=row.version,
        changes=row.changes,
        audit=row.audit,
        waiver=row.waiver,
        rejected=row.rejected,
        pipeline=newest.pipeline,
        gates=trained_by.pipeline.audit.gates,
        champion=champion.promoted if champion else None,
        champion_audit=champion_row.audit if champion_row else None,
    )


def _rolled_back_or_before(session: Session, pipeline: str, from_generation: int) -> str | Case:
    """The digest that a rollback from this generation went to already, else the case of the
    version to go back to. Raises Conflict.
    """
    rows.pipeline_row(session, pipeline)
    if from_generation and (after := session.get(PromotionRow, (pipeline, from_generation + 1))) is not None:
        if after.reason == "rolled_back":
            return after.digest
        raise Conflict(f"`{pipeline}` has left generation {from_generation} by a promotion", where=pipeline)
    standing = rows.standing_of(session, pipeline)
    if len(standing) < 2:
        raise Conflict(
            (
                f"no version of `{pipeline}` was promoted before the one that serves"
                if standing
                else "no version is promoted"
            ),
            where=pipeline,
            remedy="Promote one with `penstock promote VERSION`",
        )
    return _case(session, standing[-2].digest)


def _unmoved(session: Session, case: Case) -> VersionRow:
    """The row, if what the case rests on is still so. Raises Moved."""
    row = session.get(VersionRow, case.version.digest)
    champion = rows.champion_of(session, case.version.pipeline)
    generation = champion.generation if champion else 0
    if row is None or row.changes != case.changes or generation != case.generation - 1:
        raise Moved
    newest = rows.pipeline_row(session, case.version.pipeline)
    if newest.pipeline.promotion != case.pipeline.promotion:
        raise Moved
    return row


def _raise_unless_registered(session: Session, digest: str) -> None:
    """Runs, audits and reviews lie in topics of their own: what comes up late reads them in any order."""
    if session.get(VersionRow, digest) is None:
        raise Unavailable("this version has not come in yet", where=digest)


def _raise_unless_audited(case: Case) -> None:
    name = version_name(case.version.pipeline, case.version.digest)
    if not case.version.keyid:
        raise Refused(
            f"{name} may not serve: its package was not accepted",
            where=name,
            remedy=f"Train again: penstock train {case.version.pipeline}",
        )
    if case.audit is None:
        raise Conflict(
            f"{name} has not been audited yet",
            where=name,
            remedy="Wait for its audit; see `penstock models` and `penstock status`",
        )


def _raise_unless_promoted(decision: Decision, version: ModelVersion) -> None:
    name = version_name(version.pipeline, version.digest)
    match decision:
        case promotion.Refused(because=because):
            raise Refused(
                f"{name} may not serve: {'; '.join(because)}",
                where=name,
                remedy=f"See why: penstock report {short_digest(version.digest)}",
            )
        case AwaitsReview(because=because):
            raise Refused(
                f"{name} waits for a review: {'; '.join(because)}",
                where=name,
                remedy=(f"Decide with `penstock review approve {short_digest(version.digest)}`, or reject"),
            )
