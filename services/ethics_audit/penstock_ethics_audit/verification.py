"""Checking a version's evidence anew, from the stored bytes: nothing that was believed before counts."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from penstock.contracts.errors import PenstockError, Tampered
from penstock.contracts.events import Envelope
from penstock.packages import archive, dsse, evidence, signing
from penstock.packages.evidence import Verdict, Waiver
from penstock.packages.format import open_package
from penstock.packages.keys import Keys, Trust
from penstock.runtime.artifacts import Artifacts
from penstock_ethics_audit.store import AuditRow, ReviewRow


@dataclass(frozen=True)
class Check:
    what: str
    holds: bool
    detail: str


@dataclass
class _Checks:
    """Runs each check; one that fails is a finding, not an end."""

    found: list[Check] = field(default_factory=list)

    @contextmanager
    def check(self, what: str) -> Iterator[Callable[[str], None]]:
        said: list[str] = []
        try:
            yield said.append
        except PenstockError as error:
            self.found.append(Check(what, False, str(error)))
        else:
            self.found.append(Check(what, True, " ".join(said)))


def verify(audit: AuditRow, review: ReviewRow | None, artifacts: Artifacts, keys: Keys) -> list[Check]:
    """Package, signature, verdict, result and waiver, each against the trust store as it is now; at
    last whether the gate is open.

    Blocks for a second: fetches the package. Raises where there is no trust store at all.
    """
    trust, version, checks = keys.trust(), audit.version, _Checks()
    with tempfile.TemporaryDirectory(prefix="penstock-verify-") as scratch:
        directory, signature = Path(scratch, "package"), Path(scratch, archive.MODEL_SIGNATURE)
        with checks.check("package digest") as say:
            archive.unpack(artifacts.fetch(version.package, Path(scratch, "package.tar")), directory)
            open_package(directory, version.digest)
            say(f"every file is as {version.digest} lists it")
        with checks.check("OpenSSF model signature") as say:
            artifacts.fetch(version.signature, signature)
            signing.verify_package(directory, signature, trust, version.digest, version.keyid)
            say(f"by the registry, key {version.keyid}")
    verdict = _verdict(audit, trust, artifacts, checks)
    waiver = _waiver(audit, review.waiver if review else None, trust, checks)
    with checks.check("gates") as say:
        if verdict is None:
            raise Tampered("there is no verified verdict to open them")
        if closed := evidence.closed_gates(verdict, waiver):
            raise Tampered("; ".join(closed))
        say("each passed" if waiver is None else "each passed or is waived")
    return checks.found


def _verdict(audit: AuditRow, trust: Trust, artifacts: Artifacts, checks: _Checks) -> Verdict | None:
    envelope, verdict = audit.evidence, None
    with checks.check("verdict signature") as say:
        if envelope is None:
            raise Tampered(
                "there is no verdict: the audit"
                f" {'is running' if audit.failure is None else 'failed: ' + audit.failure}"
            )
        read = dsse.verify(envelope, trust, Verdict)
        if (read.pipeline, read.digest, read.audit_id) != (audit.pipeline, audit.digest, audit.audit_id):
            raise Tampered(f"the verdict is about {read.pipeline}@{read.digest}, audit {read.audit_id}")
        verdict = read
        say(
            f"`{verdict.verdict}` on this digest, by the audit, key {envelope.signatures[0].keyid},"
            f" {verdict.at:%Y-%m-%d %H:%M:%S} UTC"
        )
    if verdict is None:
        return None
    with checks.check("result and report") as say:
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
    return verdict


def _waiver(audit: AuditRow, envelope: Envelope | None, trust: Trust, checks: _Checks) -> Waiver | None:
    if envelope is None:
        return None
    waiver = None
    with checks.check("waiver signature") as say:
        read = dsse.verify(envelope, trust, Waiver)
        if (read.pipeline, read.digest, read.audit_id) != (audit.pipeline, audit.digest, audit.audit_id):
            raise Tampered("the waiver is for another audit")
        waiver = read
        say(f"waived by {waiver.decided_by} (a typed name, not a proven identity): {waiver.why}")
    return waiver
