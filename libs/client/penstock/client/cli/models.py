"""models, promote, rollback, verify."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from penstock.client.cli.output import (
    EXIT_FAILED,
    AsJson,
    as_json,
    console,
    platform,
    reported,
    table,
    when,
)
from penstock.contracts.digests import short_digest
from penstock.contracts.versions import version_name
from penstock.model_registry.v1 import model_registry_pb2 as registry

Version = Annotated[str, typer.Argument(help="A digest, a prefix of it, or pipeline@prefix.")]


def register(app: typer.Typer) -> None:
    for command in (models, promote, rollback, verify):
        app.command()(reported(command))


def models(pipeline: str, as_json_: AsJson = False) -> None:
    """A pipeline's versions, newest first."""
    with platform() as penstock:
        found = penstock.models.list(pipeline)
    if as_json_:
        as_json(found)
        return
    rows = [
        (
            version_name(v.pipeline, v.digest),
            _state(v),
            v.generation or None,
            v.verdict,
            _metrics(v),
            when(v.registered_at),
            "; ".join(v.because),
        )
        for v in found
    ]
    table(
        ("version", "state", "generation", "verdict", "validation", "registered", "refused because"),
        rows,
        empty=f"none yet: penstock train {pipeline}",
    )


def promote(version: Version, as_json_: AsJson = False) -> None:
    """Promote after a waiver, or try again; evidence decides."""
    with platform() as penstock:
        found = penstock.models.promote(version, by=getpass.getuser())
    as_json(found) if as_json_ else console.print(
        f"{version_name(found.pipeline, found.digest)} promoted, generation {found.generation}", markup=False
    )


def rollback(pipeline: str, as_json_: AsJson = False) -> None:
    """Back to the version promoted before, under a new generation."""
    with platform() as penstock:
        found = penstock.models.roll_back(pipeline, by=getpass.getuser())
    as_json(found) if as_json_ else console.print(
        f"{pipeline} serves {short_digest(found.digest)} again, generation {found.generation}", markup=False
    )


def verify(version: Version, as_json_: AsJson = False) -> None:
    """Check digest, signatures and verdict anew."""
    with platform() as penstock:
        found = penstock.audits.verify(version)
    if as_json_:
        as_json(found)
    else:
        table(
            ("check", "holds", "detail"),
            [(c.what, c.holds, c.detail) for c in found.checks],
            empty="nothing to check",
        )
    if not found.valid:
        raise typer.Exit(EXIT_FAILED)


def _state(version: registry.Version) -> str:
    return registry.Version.State.Name(version.state).removeprefix("STATE_").lower()


def _metrics(version: registry.Version) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in sorted(version.metrics.items())[:2])
