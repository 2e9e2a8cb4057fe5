"""models, promote, rollback, verify."""

from __future__ import annotations

import getpass
from contextlib import suppress

import typer

from penstock.client.cli.audits import Version
from penstock.client.cli.output import EXIT_FAILED, AsJson, show, state_of, table
from penstock.client.client import Penstock
from penstock.contracts.digests import short_digest
from penstock.contracts.errors import PenstockError
from penstock.contracts.events import ModelVersion
from penstock.contracts.verdicts import NOT_JUDGED
from penstock.contracts.versions import version_name
from penstock.model_registry.v1 import model_registry_pb2 as registry


def models(pipeline: str, as_json_: AsJson = False) -> None:
    """A pipeline's versions, newest first."""
    with Penstock() as penstock:
        found = penstock.models.list(pipeline)
        promoted = any(v.state == registry.Version.STATE_PROMOTED for v in found)
        why = penstock.pipelines.stopped(pipeline) if promoted else ""
    rows = [
        (
            version_name(v.pipeline, v.digest),
            _state(v),
            imported.name
            if (imported := ModelVersion.model_validate_json(v.version_json).imported)
            else None,
            v.generation or None,
            NOT_JUDGED if v.not_judged else v.verdict,
            ", ".join(f"{name} {value:.3f}" for name, value in sorted(v.metrics.items())[:2]),
            v.registered_at,
            "; ".join(v.because),
        )
        for v in found
    ]
    columns = (
        "version",
        "state",
        "imported from",
        "generation",
        "verdict",
        "validation",
        "registered",
        "because",
    )
    listed = table(columns, rows, empty=f"none yet: penstock train {pipeline}")
    show(found, listed, *_stopped(pipeline, why), as_json=as_json_)


def _stopped(pipeline: str, why: str) -> list[str]:
    """Line on a pipeline that is stopped."""
    resume = f"penstock resume {pipeline} has it answer again"
    return [f"{pipeline} is stopped, nothing of it answers: {why}; {resume}"] if why else []


def _why_stopped(penstock: Penstock, pipeline: str) -> str:
    """Reason why the pipeline is stopped; empty, too, where that cannot be asked. What was done before this
    look-up is done.
    """
    with suppress(PenstockError):
        return penstock.pipelines.stopped(pipeline)
    return ""


def _state(version: registry.Version) -> str:
    """State in words; a refused version that a person may still take on is `waiting for a review`."""
    return "waiting for a review" if version.waits_for_review else state_of(version)


def promote(version: Version, as_json_: AsJson = False) -> None:
    """Promote after a waiver, or try again; evidence decides."""
    with Penstock() as penstock:
        found = penstock.models.promote(version, by=getpass.getuser())
        why = _why_stopped(penstock, found.pipeline)
    named = version_name(found.pipeline, found.digest)
    said = [f"{named} promoted, generation {found.generation}", *found.because]
    said += _stopped(found.pipeline, why)
    show(found, "\n".join(said), as_json=as_json_)


def rollback(pipeline: str, as_json_: AsJson = False) -> None:
    """Back to the version promoted before, under a new generation."""
    with Penstock() as penstock:
        found = penstock.models.roll_back(pipeline, by=getpass.getuser())
        why = _why_stopped(penstock, pipeline)
    digest, generation = short_digest(found.digest), f"generation {found.generation}"
    said = (
        f"{pipeline} is back at {digest}, {generation}, which is what answers once it is resumed"
        if why
        else f"{pipeline} serves {digest} again, {generation}"
    )
    show(found, said, *_stopped(pipeline, why), as_json=as_json_)


def verify(version: Version, as_json_: AsJson = False) -> None:
    """Check digest, signatures and verdict anew."""
    with Penstock() as penstock:
        found = penstock.audits.verify(version)
    rows = [(check.what, check.holds, check.detail) for check in found.checks]
    show(found, table(("check", "holds", "detail"), rows, empty="nothing to check"), as_json=as_json_)
    if not found.valid:
        raise typer.Exit(EXIT_FAILED)
