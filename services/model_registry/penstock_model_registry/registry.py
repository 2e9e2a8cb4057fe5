"""Versions: packages taken in and signed, promoted on evidence, rolled back.

Each act has two halves. The first reads a case and judges it (`judge`): it fetches
packages, compares models and signs, may be slow and may be thrown away. The second is one short
transaction: it makes sure that the case has not changed meanwhile and writes rows and events
(`cases`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial

import structlog
from sqlalchemy.orm import Session

from penstock.contracts import metrics
from penstock.contracts.digests import short_digest
from penstock.contracts.errors import TREATMENTS, Conflict, PenstockError, Refused, Unavailable
from penstock.contracts.events import (
    Artifact,
    AuditCompleted,
    AuditFailed,
    ModelVersion,
    ModelVersionPromoted,
    ModelVersionRegistered,
    PipelineApplied,
    PipelineDeleted,
    ReviewDecided,
    TrainingRunCompleted,
    encode,
)
from penstock.contracts.versions import version_name
from penstock.packages.facts import signed
from penstock.packages.keys import Keys
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.metrics import counter
from penstock.runtime.store import Effect, Store, Write
from penstock_model_registry import promotion
from penstock_model_registry import store as rows
from penstock_model_registry.cases import (
    Case,
    Judged,
    Moved,
    case_of,
    registered,
    rolled_back_or_before,
    settle,
    unmoved,
)
from penstock_model_registry.judge import Judge, check_signed
from penstock_model_registry.packages import Packages
from penstock_model_registry.promotion import AwaitsReview, Decision, Reason
from penstock_model_registry.store import PipelineRow, VersionRow

log = structlog.get_logger(__name__)
_PACKAGES = counter(metrics.PACKAGES)

AUTOMATIC = "penstock"  # who promotes when no person asked for it
_TRIES = 5
_UNSIGNED = Artifact(uri="", digest="", size=0)


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
        self._keys = keys
        self._clock = clock
        self._judge = Judge(packages, artifacts, keys, clock)
        self._judging = asyncio.Lock()

    # -- packages come in --------------------------------------------------------------------------

    async def register(self, run: TrainingRunCompleted) -> Write | None:
        """Makes a version of a run's package, signed and announced, or refused with the reason on its
        row. Raises Unavailable while the artifact store is away, Tampered for a run that the trainer
        did not sign.
        """
        await asyncio.to_thread(check_signed, run, self._keys)

        def look(session: Session) -> tuple[VersionRow | None, PipelineRow]:
            trained_by = rows.trained_by(session, run.pipeline, run.pipeline_number)
            return session.get(VersionRow, run.digest), trained_by

        if await self._store.read(
            lambda session: run.pipeline_number <= rows.deleted_up_to(session, run.pipeline)
        ):
            log.info("run_of_deleted_pipeline_ignored", pipeline=run.pipeline, run_id=run.run_id)
            return None
        known, file = await self._store.read(look)
        if known is not None and known.signed:
            log.info("version_known", pipeline=run.pipeline, digest=run.digest, run_id=run.run_id)
            return None
        try:
            signature, keyid = await asyncio.to_thread(self._packages.take_in, run, file.pipeline)
            because = []
        except PenstockError as error:
            if TREATMENTS[error.kind].retry:
                raise
            signature, keyid, because = _UNSIGNED, "", [f"the package is not accepted: {error}"]
        version = ModelVersion(
            pipeline=run.pipeline,
            digest=run.digest,
            package=run.package,
            signature=signature,
            keyid=keyid,
            run_id=run.run_id,
            pipeline_number=run.pipeline_number,
            training_set=run.training_set,
            metrics=run.metrics,
            cost=run.cost,
            imported=run.imported,
            study=run.study,
            registered_at=self._clock(),
            run=run.evidence,
            applied=file.applied.evidence if file.number == run.pipeline_number else None,
        )
        row = VersionRow.of(version, "refused" if because else "registered", because)
        row.changes = known.changes + 1 if known else 0
        return partial(self._register, row)

    def _register(self, row: VersionRow, effect: Effect) -> None:
        if row.version.pipeline_number <= rows.deleted_up_to(effect.session, row.pipeline):
            log.info("run_of_deleted_pipeline_ignored", pipeline=row.pipeline, run_id=row.run_id)
            return  # while its package was taken in
        effect.session.merge(row)
        effect.after_commit(partial(_PACKAGES.add, 1, {"pipeline": row.pipeline, "outcome": row.state}))
        told = log.bind(pipeline=row.pipeline, digest=row.digest, run_id=row.run_id)
        if row.signed:
            registered = ModelVersionRegistered(version=row.version)
            effect.publish(signed(registered, self._keys.signer("registry")))
            told.info("version_registered", keyid=row.version.keyid)
        else:
            told.error("package_refused", reason=row.because[0])

    # -- evidence comes in -------------------------------------------------------------------------

    async def audited(self, audit: AuditCompleted) -> Write | None:
        """Decides by an audit's verdict: promotes on a pass, else refuses or waits for a review. A
        version that served before is brought back by a person alone: they rolled back from it, or
        it was replaced.

        Raises Unavailable while the version has not come in, Tampered for a forged verdict.
        """
        await asyncio.to_thread(check_signed, audit, self._keys)
        if await self._store.read(lambda session: rows.went(session, audit.pipeline, audit.digest)):
            return None
        async with self._judging:
            case = await self._case(audit.digest)
            if case.audit and case.audit.audit_id >= audit.audit_id:  # ULIDs: by time
                log.info("known_audit_ignored", digest=audit.digest, audit_id=audit.audit_id)
                return None
            case = replace(case, audit=audit, waiver=None, rejected=None)
            judged = await asyncio.to_thread(self._judge, case, AUTOMATIC)
        if case.retired:
            judged = replace(judged, promoted=None)
        return partial(self._write, case, judged)

    async def reviewed(self, review: ReviewDecided) -> Write | None:
        """Decides anew by a person's review. Raises Unavailable while the version or the audit has not
        come in, Tampered for a forged decision.
        """
        await asyncio.to_thread(check_signed, review, self._keys)
        if await self._store.read(lambda session: rows.went(session, review.pipeline, review.digest)):
            return None
        async with self._judging:
            case = await self._case(review.digest)
            if case.audit is None or case.audit.audit_id < review.audit_id:
                raise Unavailable(
                    f"audit {review.audit_id}, which this review decides on, has not come in yet",
                    where=review.digest,
                )
            if case.audit.audit_id != review.audit_id:
                log.info("review_of_older_audit_ignored", digest=review.digest, audit_id=review.audit_id)
                return None
            if case.waiver is not None or case.rejected is not None:  # decided: the first one stands
                log.info("known_review_ignored", digest=review.digest, audit_id=review.audit_id)
                return None
            waiver, rejected = rows.outcome_of(review)
            case = replace(case, waiver=waiver, rejected=rejected)
            judged = await asyncio.to_thread(self._judge, case, review.decided_by)
        return partial(self._write, case, judged)

    async def _case(self, digest: str) -> Case:
        return await self._store.read(lambda session: case_of(session, registered(session, digest)))

    def audit_failed(self, failed: AuditFailed, effect: Effect) -> None:
        """Notes on the version that nothing is known about it. Raises Unavailable while the version
        has not come in, Tampered for what the audit did not sign.
        """
        check_signed(failed, self._keys)
        if rows.went(effect.session, failed.pipeline, failed.digest):
            return
        row = registered(effect.session, failed.digest)
        if row.state == "registered" and row.audit is None:
            row.because = [f"the audit could not be carried out: {failed.reason}. {failed.remedy}"]

    # -- what is announced stays -------------------------------------------------------------------

    def state_again(self, effect: Effect) -> None:
        """Signs the promotions that stand and are of a release that did not say by whom, and announces
        them again.
        """
        signer = self._keys.signer("registry")
        for name in rows.names(effect.session):
            try:
                champion = rows.champion_of(effect.session, name)
                if champion is None or champion.promoted.statement is not None:
                    continue
                champion.promoted = signed(champion.promoted, signer)
            except PenstockError as error:  # a damaged row holds up no other
                log.error("promotion_not_stated_again", pipeline=name, why=str(error))
                continue
            effect.publish(champion.promoted)
            log.info("promotion_stated_again", pipeline=name, generation=champion.generation)

    def announced(
        self, event: PipelineApplied | PipelineDeleted | ModelVersionPromoted, effect: Effect
    ) -> None:
        """Announces a pipeline's newest file or promotion again where another came after it. The
        topics are compacted: who reads them anew would find the other one alone, an old file once
        more or a forged one.
        """
        newest: PipelineApplied | PipelineDeleted | ModelVersionPromoted | None = None
        if isinstance(event, PipelineApplied | PipelineDeleted):
            newest = rows.newest_said(effect.session, event.pipeline)
        elif champion := rows.champion_of(effect.session, event.version.pipeline):
            newest = champion.promoted
        if newest is not None and encode(newest) != encode(event):
            effect.publish(newest)
            log.warning("newest_announced_again", topic=event.topic, key=newest.key)

    # -- people ask --------------------------------------------------------------------------------

    async def promote(self, reference: str, *, by: str) -> str:
        """Promotes a version where its evidence allows it, weighed again; returns its digest. Does
        nothing for the champion. Raises Refused with every reason, Conflict before the first audit.
        """

        def look(session: Session) -> str | Case:
            case = case_of(session, rows.find_version(session, reference))
            if case.serves:
                return case.version.digest
            _raise_unless_audited(case)
            return case

        return await self._decide(look, by, "promoted")

    async def roll_back(self, pipeline: str, *, by: str, from_generation: int = 0) -> str:
        """Promotes the version that served before once more, as a new generation; returns its digest.
        Raises Conflict where there is none, Refused.

        With `from_generation` it happens once: the same call again, after an answer that was lost,
        finds it done.
        """
        return await self._decide(
            lambda session: rolled_back_or_before(session, pipeline, from_generation), by, "rolled_back"
        )

    async def _decide(self, look: Callable[[Session], str | Case], by: str, reason: Reason) -> str:
        """Judges the case that `look` finds, anew where it moves meanwhile, and returns its digest;
        or returns the digest that `look` finds decided already.
        """
        async with self._judging:
            for _ in range(_TRIES):
                case = await self._store.read(look)
                if isinstance(case, str):
                    return case
                judged = await asyncio.to_thread(self._judge, case, by, reason)
                if reason == "rolled_back":  # the version stays retired: its refusal is not announced
                    _raise_unless_promoted(judged.decision, case.version)
                try:
                    await self._store.write(partial(self._write, case, judged))
                except Moved:
                    continue
                _raise_unless_promoted(judged.decision, case.version)
                return case.version.digest
            raise Moved

    def _write(self, case: Case, judged: Judged, effect: Effect) -> None:
        """Writes the evidence and the decision on it. Raises Moved."""
        row = unmoved(effect.session, case)
        row.audit, row.waiver, row.rejected = case.audit, case.waiver, case.rejected
        settle(effect, row, case, judged, self._clock(), self._keys.signer("registry"))


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
