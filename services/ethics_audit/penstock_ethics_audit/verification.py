"""Verification of a version's evidence anew, from the stored bytes: no earlier check counts."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from penstock.contracts.errors import Invalid, NotFound, PenstockError, Tampered
from penstock.contracts.events import Artifact, Envelope, ModelVersion, ModelVersionPromoted, TrainingSet
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.versions import version_name
from penstock.packages import archive, dsse, evidence, signing
from penstock.packages.dsse import Statement
from penstock.packages.evidence import Verdict, Waiver
from penstock.packages.facts import (
    AppliedPipeline,
    Rejection,
    check_granted,
    verify_fact,
    verify_version,
)
from penstock.packages.format import open_package
from penstock.packages.keys import Keys, Trust
from penstock.runtime.artifacts import Artifacts
from penstock_ethics_audit.store import AuditRow, ReviewRow


@dataclass(frozen=True)
class Check:
    what: str
    holds: bool
    detail: str


@contextmanager
def _check(found: list[Check], what: str) -> Iterator[Callable[[str], None]]:
    """Adds what became of one check: an error is a finding, not an end."""
    said: list[str] = []
    try:
        yield said.append
    except PenstockError as error:
        found.append(Check(what, False, str(error)))
    else:
        found.append(Check(what, True, " ".join(said)))


def verify(
    audit: AuditRow,
    review: ReviewRow | None,
    promotion: ModelVersionPromoted | None,
    artifacts: Artifacts,
    keys: Keys,
) -> list[Check]:
    """Checks the whole chain against the trust store as it is now, from the pipeline file to a
    person's review, then whether every gate is open, and the promotion where the version was promoted.

    Blocks for a second: fetches the package. Raises where there is no trust store at all.
    """
    trust, version = keys.trust(), audit.version
    checks: list[Check] = []
    asked: Pipeline | None = None
    _origin(version, trust, artifacts, checks)
    with tempfile.TemporaryDirectory(prefix="penstock-verify-") as scratch:
        directory, signature = Path(scratch, "package"), Path(scratch, archive.MODEL_SIGNATURE)
        with _check(checks, "package digest") as say:
            archive.unpack(artifacts.fetch(version.package, Path(scratch, "package.tar")), directory)
            asked = open_package(directory, version.digest).pipeline
            say(f"every file is as {version.digest} lists it")
        with _check(checks, "OpenSSF model signature") as say:
            artifacts.fetch(version.signature, signature)
            signing.verify_package(directory, signature, trust, version.digest, version.keyid)
            say(f"by the registry, key {version.keyid}")
    verdict = _verdict(audit, trust, artifacts, checks)
    waiver = None
    if review and review.waiver:
        with _check(checks, "waiver signature") as say:
            waiver = dsse.verify(review.waiver, trust, Waiver)
            say(f"waived by {waiver.decided_by} (a typed name, not a proven identity): {waiver.why};")
            say(_by("audit", review.waiver, waiver))
    if review and review.rejection:
        with _check(checks, "rejection signature") as say:
            rejection = dsse.verify(review.rejection, trust, Rejection)
            say(f"rejected by {rejection.decided_by} (a typed name, not a proven identity): {rejection.why};")
            say(_by("audit", review.rejection, rejection))
    with _check(checks, "gates") as say:
        if verdict is None:
            raise Tampered("there is no verified verdict to open them")
        unjudged = evidence.nothing_judged(verdict, asked) if asked else []
        if closed := evidence.closed_gates(verdict, waiver) or unjudged:
            raise Tampered("; ".join(closed))
        passed = "each passed" if waiver is None else "each passed or is waived"
        say(passed if verdict.gates else "nothing was judged: the pipeline file has none, which it allows")
    if promotion is not None:
        with _check(checks, "promotion signature") as say:
            _promotion(promotion, audit, trust, say)
    return checks


def _promotion(
    promotion: ModelVersionPromoted, audit: AuditRow, trust: Trust, say: Callable[[str], None]
) -> None:
    """Checks that the registry granted it for this version, and says who asked for it."""
    check_granted(promotion, trust)
    subject = promotion.version.pipeline, promotion.version.digest
    if subject != (audit.pipeline, audit.digest):
        raise Tampered(f"the promotion is of {version_name(*subject)}")
    stated = verify_fact(promotion, trust)
    said = "rolled back to" if promotion.reason == "rolled_back" else "promoted"
    say(f"generation {promotion.generation}, {said} by {promotion.promoted_by} (not a proven identity);")
    say(_by("registry", promotion.statement, stated))


def _origin(version: ModelVersion, trust: Trust, artifacts: Artifacts, checks: list[Check]) -> None:
    """Checks what the version comes from: pipeline file, training set, run."""
    number, made = version.pipeline_number, version.training_set
    with _check(checks, "pipeline signature") as say:
        if version.applied is None:
            raise Tampered(f"number {number} of {version.pipeline} came without a signed statement")
        applied = dsse.verify(version.applied, trust, AppliedPipeline)
        if (applied.pipeline, applied.number) != (version.pipeline, number):
            raise Tampered(f"the statement is about {applied.pipeline} number {applied.number}")
        say(f"number {number}, applied by {applied.applied_by}; {_by('registry', version.applied, applied)}")
    with _check(checks, "training set signature") as say:
        stated = verify_fact(made, trust)
        say(f"{sum(made.rows.values()):,} rows in three parts, {_by('feature store', made.evidence, stated)}")
        if erased := _erased(made, trust, artifacts):
            say(f"({erased:,} of these rows {'was' if erased == 1 else 'were'} erased since)")
    with _check(checks, "run signature") as say:
        run = verify_version(version, trust)
        say(f"run {run.run_id} made this package of that set, {_by('trainer', version.run, run)}")


def _erased(made: TrainingSet, trust: Trust, artifacts: Artifacts) -> int:
    """Counts rows that erasures took out since, by the manifest that the feature store keeps and signs
    beside the parts. None are known of a set that is gone, or lies in no store that is asked.
    """
    place = made.audit.uri.rpartition("/")[0]
    try:
        manifest = artifacts.read_unchecked(Artifact(uri=f"{place}/training_set.json", digest="", size=0))
        now = TrainingSet.model_validate_json(manifest)
        verify_fact(now, trust)
    except (Invalid, NotFound, ValidationError):
        return 0
    same = now.fingerprint == made.fingerprint
    return sum(now.left.values()) - sum(made.left.values()) if same else 0


def _by(role: str, envelope: Envelope | None, stated: Statement) -> str:
    """Says who signed a statement that was verified, and when."""
    keyid = envelope.signatures[0].keyid if envelope else ""
    return f"by the {role}, key {keyid}, {stated.at:%Y-%m-%d %H:%M:%S} UTC"


def _verdict(audit: AuditRow, trust: Trust, artifacts: Artifacts, checks: list[Check]) -> Verdict | None:
    envelope, verdict = audit.evidence, None
    with _check(checks, "verdict signature") as say:
        if envelope is None:
            raise Tampered(
                "there is no verdict: the audit"
                f" {'is running' if audit.failure is None else 'failed: ' + audit.failure}"
            )
        read = dsse.verify(envelope, trust, Verdict)
        if (read.pipeline, read.digest, read.audit_id) != (audit.pipeline, audit.digest, audit.audit_id):
            raise Tampered(f"the verdict is about {read.pipeline}@{read.digest}, audit {read.audit_id}")
        verdict = read
        say(f"`{verdict.verdict}` on this digest, {_by('audit', envelope, verdict)}")
    if verdict is None:
        return None
    with _check(checks, "result and report") as say:
        stored = audit.artifact("result")
        if stored.digest != verdict.result_digest:
            raise Tampered(f"the result is {stored.digest}, signed was {verdict.result_digest}")
        result = json.loads(artifacts.read(stored))
        for name in ("report", "scores"):
            held = audit.artifact(name)
            if held.digest != result[f"{name}_digest"]:
                raise Tampered(f"the {name} is {held.digest}, the result names {result[f'{name}_digest']}")
            artifacts.read(held)
        say("the bytes that the verdict's signature covers")
        for note in result.get("notes", ()):
            say(f"({note})")
    return verdict
