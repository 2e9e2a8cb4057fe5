"""Judging: verifies the evidence on a version, compares it with the champion, decides and, where it
may serve, signs the promotion. Blocking; reads artifacts and keys, writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from penstock.contracts.errors import TREATMENTS, PenstockError, Tampered
from penstock.contracts.events import (
    AuditCompleted,
    AuditFailed,
    ModelVersionPromoted,
    ReviewDecided,
    TrainingRunCompleted,
)
from penstock.contracts.versions import version_name
from penstock.packages import dsse, evidence
from penstock.packages.dsse import envelope_digest
from penstock.packages.evidence import Known, PromotionGrant, Waiver, admissible, verdict_of
from penstock.packages.facts import signed, verify_fact, verify_review
from penstock.packages.keys import Keys
from penstock.runtime.artifacts import Artifacts
from penstock_model_registry import promotion
from penstock_model_registry.cases import Case, Judged
from penstock_model_registry.packages import Packages
from penstock_model_registry.promotion import Drop, Promoted, Reason


def check_signed(
    said: TrainingRunCompleted | AuditCompleted | AuditFailed | ReviewDecided, keys: Keys
) -> None:
    """Raises Tampered for a forged one. To be called before what it is about is waited for."""
    match said:
        case TrainingRunCompleted() | AuditFailed():
            verify_fact(said, keys.trust())
        case AuditCompleted():
            verdict_of(said, keys.trust())
        case ReviewDecided():
            verify_review(said, keys.trust())


class Judge:
    def __init__(
        self, packages: Packages, artifacts: Artifacts, keys: Keys, clock: Callable[[], datetime]
    ) -> None:
        self._packages = packages
        self._artifacts = artifacts
        self._keys = keys
        self._clock = clock

    def __call__(self, case: Case, by: str, reason: Reason = "promoted") -> Judged:
        """Decides on a case. Raises Tampered for forged evidence, and what may succeed later: Unavailable
        while artifacts or keys cannot be read.
        """
        proven = self._verified(case)
        drop: Drop | None = None
        best: Drop | None = None
        found = ""
        doubts: list[str] = []
        if proven.verdict and not evidence.closed_gates(proven.verdict, proven.waiver):
            doubts += evidence.nothing_judged(proven.verdict, case.trained_by)
            try:
                found = self._packages.verify(case.version)
                if reason == "promoted" and not case.serves:
                    drop, best = self._drops(case)
            except PenstockError as error:
                if TREATMENTS[error.kind].retry:
                    raise
                doubts.append(str(error))
        decision = promotion.weigh(
            proven,
            case.gates,
            drop,
            case.pipeline.promotion,
            generation=case.generation,
            doubts=doubts,
            best=best,
            by_data=case.pipeline.margin_by_data,
        )
        if not isinstance(decision, Promoted) or case.serves:
            return Judged(decision)
        event = self._grant(case, by, reason)
        known = Known(case.champion.generation, case.champion.version.digest) if case.champion else None
        if wrong := admissible(event, self._keys.trust(), found, known, case.trained_by):
            return Judged(promotion.Refused(tuple(wrong)))
        return Judged(decision, event)

    def _verified(self, case: Case) -> promotion.Evidence:
        """Verifies the statements behind a case. Raises Tampered where one is forged or is about
        something else.
        """
        if case.audit is None:
            return promotion.Evidence(None, rejected=case.rejected)
        trust, subject = self._keys.trust(), (case.version.pipeline, case.version.digest)
        verdict = verdict_of(case.audit, trust)
        waiver = dsse.verify(case.waiver, trust, Waiver) if case.waiver else None
        for statement in (verdict, waiver):
            if statement and (statement.pipeline, statement.digest) != subject:
                raise Tampered(
                    f"the evidence is about {version_name(statement.pipeline, statement.digest)}",
                    where=case.version.digest,
                )
        return promotion.Evidence(verdict, waiver, case.rejected)

    def _drops(self, case: Case) -> tuple[Drop | None, Drop | None]:
        """Losses against the champion, and against the best that served before it."""
        if case.champion is None or case.pipeline.promotion.compare == "none":
            return None, None
        from penstock_model_registry.comparison import (  # numpy: a first version needs none
            measure_best,
            measure_drop,
        )

        pipeline = case.pipeline
        drop = measure_drop(self._artifacts, pipeline, case.champion_audit, case.audit)
        lead = promotion.BEST_SHARE * drop.margin(pipeline.promotion, by_data=pipeline.margin_by_data)
        return drop, measure_best(self._artifacts, pipeline, case.earlier_audits, case.audit, lead=lead)

    def _grant(self, case: Case, by: str, reason: Reason) -> ModelVersionPromoted:
        now = self._clock()
        grant = PromotionGrant(
            pipeline=case.version.pipeline,
            digest=case.version.digest,
            at=now,
            generation=case.generation,
            evidence=tuple(envelope_digest(envelope) for envelope in case.proof),
        )
        signer = self._keys.signer("registry")
        promoted = ModelVersionPromoted(
            version=case.version,
            generation=case.generation,
            evidence=case.proof,
            promotion=dsse.sign(grant, signer),
            reason=reason,
            promoted_at=now,
            promoted_by=by,
        )
        return signed(promoted, signer)
