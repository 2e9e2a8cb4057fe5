"""review list, approve, reject."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from penstock.client.cli.audits import Version, rule
from penstock.client.cli.following import until_promoted_and_served
from penstock.client.cli.output import AsJson, show, table
from penstock.client.client import Penstock
from penstock.contracts.versions import version_name
from penstock.ethics_audit.v1 import ethics_audit_pb2

Who = Annotated[
    str,
    typer.Option(
        "--by", help="Your name. It is recorded as typed: no identity until there is access control."
    ),
]

review = typer.Typer(help="Gates that a person may waive.", no_args_is_help=True)


@review.command("list")
def list_(
    pipeline: Annotated[str, typer.Option(help="Only of this pipeline.")] = "",
    closed: Annotated[bool, typer.Option("--all", help="Decided ones too.")] = False,
    as_json_: AsJson = False,
) -> None:
    """List the reviews that wait for a person's decision."""
    with Penstock() as penstock:
        found = penstock.audits.reviews(pipeline, open_only=not closed)
    rows = [
        (
            version_name(r.pipeline, r.digest),
            r.state,
            "\n".join([*(f"{rule(g)}: {g.verdict}, {g.reason}" for g in r.gates), *filter(None, [r.looks])]),
            r.decided_by,
            r.why,
            r.requested_at,
        )
        for r in found
    ]
    columns = ("version", "state", "gates", "by", "why", "requested")
    show(found, table(columns, rows, empty="nothing waits for a decision"), as_json=as_json_)


@review.command()
def approve(
    version: Version,
    why: Annotated[str, typer.Option(help="The reason, which is signed and kept.")],
    by: Who = "",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait until it is served.")] = False,
    as_json_: AsJson = False,
) -> None:
    """Waive the gates that did not pass, with a reason; the waiver is signed.

    Waits until the version is promoted and served, a minute at most; the decision stands all the same.
    """
    with Penstock() as penstock:
        decided = _decide(penstock, version, why, by, approve=True, as_json=as_json_)
        if not no_wait:
            until_promoted_and_served(penstock, decided.digest, quiet=as_json_)


@review.command()
def reject(
    version: Version,
    why: Annotated[str, typer.Option(help="The reason, which is kept.")],
    by: Who = "",
    as_json_: AsJson = False,
) -> None:
    """Leave the version refused."""
    with Penstock() as penstock:
        _decide(penstock, version, why, by, approve=False, as_json=as_json_)


def _decide(
    penstock: Penstock, version: str, why: str, by: str, *, approve: bool, as_json: bool
) -> ethics_audit_pb2.Review:
    found = penstock.audits.decide(version, approve=approve, by=by or getpass.getuser(), why=why)
    decision = f"{version_name(found.pipeline, found.digest)}: {found.state} by {found.decided_by}"
    show(found, f"{decision} (a typed name, not an identity)", as_json=as_json)
    return found
