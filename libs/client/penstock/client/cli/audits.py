"""audit, report, review."""

from __future__ import annotations

import getpass
import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from penstock.client.cli.output import (
    EXIT_REFUSED,
    AsJson,
    as_json,
    console,
    platform,
    reported,
    table,
    when,
)
from penstock.contracts.digests import short_digest
from penstock.contracts.measures import words
from penstock.contracts.versions import version_name
from penstock.ethics_audit.v1 import ethics_audit_pb2 as audit

Version = Annotated[str, typer.Argument(help="A digest, a prefix of it, or pipeline@prefix.")]
Who = Annotated[
    str,
    typer.Option(
        "--by", help="Your name. It is recorded as typed: no identity until there is access control."
    ),
]

review = typer.Typer(help="Gates that a person may waive.", no_args_is_help=True)

STYLES = {"pass": "green", "fail": "red", "inconclusive": "yellow"}


def register(app: typer.Typer) -> None:
    app.command("audit")(reported(audit_))
    app.command()(reported(report))
    review.command("list")(reported(list_))
    review.command("approve")(reported(approve))
    review.command("reject")(reported(reject))
    app.add_typer(review, name="review")


def show_gates(found: audit.Audit) -> None:
    """A line a gate: the rule, what was measured with its interval, the verdict and why."""
    drawn = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for gate in found.gates:
        sign = "≥" if gate.bound == "at_least" else "≤"
        rule = f"{words(gate.metric)}{f' by {gate.by}' if gate.by else ''} {sign} {gate.limit:g}"
        measured = (
            f"{gate.value.estimate:.3f} [{gate.value.lower:.3f}, {gate.value.upper:.3f}]"
            if gate.HasField("value")
            else "–"
        )
        drawn.add_row("audit", rule, measured, Text(gate.verdict, style=STYLES[gate.verdict]), gate.reason)
    console.print(drawn)


def audit_(version: Version, as_json_: AsJson = False) -> None:
    """A version's verdict, gate by gate. Ends with 3 unless it passed."""
    with platform() as penstock:
        found = penstock.audits.get(version)
    if as_json_:
        as_json(found)
    else:
        state = audit.Audit.State.Name(found.state).removeprefix("STATE_").lower()
        console.print(
            f"audit {found.audit_id} of {version_name(found.pipeline, found.digest)}:"
            f" {found.verdict or state}"
        )
        if found.failure:
            console.print(f"{found.failure}. {found.remedy}", style="red")
        show_gates(found)
    if found.verdict and found.verdict != "pass":
        raise typer.Exit(EXIT_REFUSED)


def report(
    version: Version,
    to: Annotated[
        Path | None, typer.Option("--to", help="Where to write; by default audit-<version>.html here.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    as_json_: AsJson = False,
) -> None:
    """The audit's report: HTML for people, or JSON."""
    with platform() as penstock:
        found = penstock.audits.report(version, format="json" if as_json_ else "html")
        if as_json_:
            typer.echo(found.decode())
            return
        path = to or Path(f"audit-{short_digest(penstock.models.get(version).digest)}.html")
    path.write_bytes(found)
    console.print(f"wrote {path} ({len(found) // 1024} KiB)")
    if open_:
        webbrowser.open(path.resolve().as_uri())


def list_(
    pipeline: Annotated[str, typer.Option(help="Only of this pipeline.")] = "",
    closed: Annotated[bool, typer.Option("--all", help="Decided ones too.")] = False,
    as_json_: AsJson = False,
) -> None:
    """List the reviews that wait for a person's decision."""
    with platform() as penstock:
        found = penstock.audits.reviews(pipeline, open_only=not closed)
    if as_json_:
        as_json(found)
        return
    rows = [
        (
            version_name(r.pipeline, r.digest),
            r.state,
            "; ".join(g.reason for g in r.gates),
            r.decided_by,
            r.why,
            when(r.requested_at),
        )
        for r in found
    ]
    table(("version", "state", "gates", "by", "why", "requested"), rows, empty="nothing waits for a decision")


def approve(
    version: Version,
    why: Annotated[str, typer.Option(help="The reason, which is signed and kept.")],
    by: Who = "",
    as_json_: AsJson = False,
) -> None:
    """Waive the gates that did not pass, with a reason; the waiver is signed."""
    _decide(version, why, by, approve=True, quiet=as_json_)


def reject(
    version: Version,
    why: Annotated[str, typer.Option(help="The reason, which is kept.")],
    by: Who = "",
    as_json_: AsJson = False,
) -> None:
    """Leave the version refused."""
    _decide(version, why, by, approve=False, quiet=as_json_)


def _decide(version: str, why: str, by: str, *, approve: bool, quiet: bool) -> None:
    with platform() as penstock:
        found = penstock.audits.decide(version, approve=approve, by=by or getpass.getuser(), why=why)
    if quiet:
        as_json(found)
        return
    console.print(
        f"{version_name(found.pipeline, found.digest)}: {found.state} by {found.decided_by}"
        " (a typed name, not an identity)",
        markup=False,
    )
