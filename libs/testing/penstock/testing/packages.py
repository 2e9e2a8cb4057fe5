"""A model package in small, and signed statements about it: for tests of whoever makes, registers,
audits or loads one.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from penstock.contracts.digests import digest_of
from penstock.contracts.events import (
    Artifact,
    Envelope,
    GateResult,
    Interval,
    ModelVersion,
    ModelVersionPromoted,
    ModelVersionRegistered,
    PipelineApplied,
    PipelineDeleted,
    TrainingRunCompleted,
)
from penstock.packages import dsse, evidence, facts
from penstock.packages.format import write_package as write
from penstock.packages.keys import Keys
from penstock.packages.parts import (
    Curves,
    Inputs,
    ModelSignature,
    NumberProfile,
    Output,
    Parts,
    Probes,
    Profile,
    StringProfile,
    TargetSignature,
)
from penstock.testing import lending
from penstock.testing.lending import NOW, NOWHERE, PIPELINE_TEXT, pipeline, training_set


def write_package(
    directory: Path,
    *,
    model: bytes = b"no real graph",
    card: str = "# loans\n",
    baselines: Mapping[str, bytes] = MappingProxyType({}),
    **parts: Any,
) -> str:
    """A package that passes `check`, of the pipeline `loans`; another `model` or `card` makes another
    digest, and `parts` replaces others of its parts.
    """
    usual: dict[str, Any] = {
        "pipeline": pipeline(),
        "signature": model_signature(Inputs(numbers=("income",), strings=("purpose",))),
        "metrics": {"auroc": 0.9},
        "training_set": training_set(),
        "profile": Profile(
            features={
                "income": NumberProfile(rows=60, missing=1, mean=2.0, minimum=0.0, maximum=9000.0),
                "purpose": StringProfile(rows=60, missing=0, values={"car": 60}),
            },
            probes=Probes(
                numbers=((1.0,), (None,)),
                strings=(("car",), ("",)),
                outputs={"probabilities": ((0.25, 0.75), (0.5, 0.5)), "decision": (("true",), ("false",))},
            ),
        ),
        "curves": Curves(metric="auroc", points=()),
        "model_card": card,
    }
    return write(directory, model, Parts(**usual | parts), baselines)


def model_signature(inputs: Inputs) -> ModelSignature:
    """Signature of a graph that says whether an applicant defaults."""
    return ModelSignature(
        inputs=inputs,
        outputs={
            "probabilities": Output(datatype="FP32", columns=2),
            "decision": Output(datatype="BYTES", columns=1),
        },
        classes=("false", "true"),
        target=TargetSignature(name="default", type="binary"),
    )


def applied(
    keys: Keys,
    text: str = PIPELINE_TEXT,
    number: int = 1,
    *,
    spec: dict[str, Any] | None = None,
    deleted_before: int = 0,
) -> PipelineApplied:
    """Signed by the registry. `spec`: by default what the text says."""
    spec = lending.read(text) if spec is None else spec
    event = PipelineApplied(
        pipeline=spec["pipeline"],
        number=number,
        spec=spec,
        text=text,
        digest=digest_of(text.encode()),
        applied_at=NOW,
        applied_by="Ada",
        deleted_before=deleted_before,
    )
    return facts.signed(event, keys.signer("registry"))


def deleted(keys: Keys, pipeline: str = "loans", number: int = 1) -> PipelineDeleted:
    """Signed by the registry."""
    event = PipelineDeleted(pipeline=pipeline, number=number, deleted_at=NOW, deleted_by="Ada")
    return facts.signed(event, keys.signer("registry"))


def gate(
    verdict: str = "pass", on_fail: str = "review", metric: str = "equalized_odds_difference"
) -> GateResult:
    by, bound, limit = (
        ("sex", "at_most", 0.15) if metric == "equalized_odds_difference" else (None, "at_least", 0.7)
    )
    return GateResult.model_validate(
        {
            "metric": metric,
            "by": by,
            "bound": bound,
            "limit": limit,
            "judge": "upper_bound" if bound == "at_most" else "lower_bound",
            "value": Interval(estimate=0.1, lower=0.05, upper=0.2),
            "verdict": verdict,
            "on_fail": on_fail,
            "reason": "said in a test",
        }
    )


AUROC_PASSED = gate(metric="auroc", on_fail="block")


def verdict(
    keys: Keys,
    digest: str,
    *gates: GateResult,
    audit_id: str = "A1",
    name: str = "loans",
    at: datetime = NOW,
    result_digest: str = NOWHERE.digest,
    judged: bool = True,
) -> Envelope:
    gates = (gates or (AUROC_PASSED, gate())) if judged else ()
    statement = evidence.Verdict.model_validate(
        {
            "pipeline": name,
            "digest": digest,
            "at": at,
            "audit_id": audit_id,
            "verdict": evidence.overall(gates),
            "gates": gates,
            "result_digest": result_digest,
        }
    )
    return dsse.sign(statement, keys.signer("audit"))


def waiver(
    keys: Keys, digest: str, *gates: GateResult, audit_id: str = "A1", name: str = "loans", at: datetime = NOW
) -> Envelope:
    statement = evidence.Waiver(
        pipeline=name,
        digest=digest,
        at=at,
        audit_id=audit_id,
        gates=tuple(evidence.gate_name(one) for one in gates),
        decided_by="Ada",
        why="too few rows",
    )
    return dsse.sign(statement, keys.signer("audit"))


def rejection(
    keys: Keys, digest: str, *, audit_id: str = "A1", name: str = "loans", at: datetime = NOW
) -> Envelope:
    statement = facts.Rejection(
        pipeline=name, digest=digest, at=at, audit_id=audit_id, decided_by="Ada", why="so"
    )
    return dsse.sign(statement, keys.signer("audit"))


def version(
    digest: str, keys: Keys, package: Artifact = NOWHERE, signature: Artifact = NOWHERE, name: str = "loans"
) -> ModelVersion:
    made = ModelVersion(
        pipeline=name,
        digest=digest,
        package=package,
        signature=signature,
        keyid=keys.signer("registry").keyid,
        run_id="R1",
        pipeline_number=1,
        training_set=training_set(name),
        metrics={"auroc": 0.9},
        registered_at=NOW,
    )
    return of_a_run(keys, made)


def of_a_run(keys: Keys, version: ModelVersion) -> ModelVersion:
    """The version as a run made it: signed by trainer and feature store."""
    made = facts.signed(version.training_set, keys.signer("feature_store"))
    version = version.model_copy(update={"training_set": made})
    said = version.model_dump(include=set(TrainingRunCompleted.model_fields) - {"evidence"})
    run = facts.signed(TrainingRunCompleted(**said, completed_at=NOW), keys.signer("trainer"))
    file = applied(keys, number=version.pipeline_number, spec=lending.spec(pipeline=version.pipeline))
    return version.model_copy(update={"run": run.evidence, "applied": file.evidence})


def promotion(
    keys: Keys, promoted: ModelVersion, *proof: Envelope, generation: int = 1, at: datetime = NOW
) -> ModelVersionPromoted:
    """Signed by the registry, whether or not the evidence would let it."""
    grant = evidence.PromotionGrant(
        pipeline=promoted.pipeline,
        digest=promoted.digest,
        at=at,
        generation=generation,
        evidence=tuple(dsse.envelope_digest(envelope) for envelope in proof),
    )
    event = ModelVersionPromoted(
        version=promoted,
        generation=generation,
        evidence=proof,
        promotion=dsse.sign(grant, keys.signer("registry")),
        reason="promoted",
        promoted_at=at,
        promoted_by="penstock",
    )
    return facts.signed(event, keys.signer("registry"))


def registered(keys: Keys, version: ModelVersion) -> ModelVersionRegistered:
    """Signed by the registry."""
    return facts.signed(ModelVersionRegistered(version=version), keys.signer("registry"))
