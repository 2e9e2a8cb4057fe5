"""audit, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from penstock.client.cli import costs
from penstock.client.cli.output import EXIT_REFUSED, AsJson, show, state_of, write_page
from penstock.client.client import Penstock
from penstock.contracts.digests import short_digest
from penstock.contracts.measures import words
from penstock.contracts.verdicts import NOT_JUDGED, worded
from penstock.contracts.versions import version_name
from penstock.ethics_audit.v1 import ethics_audit_pb2

Version = Annotated[str, typer.Argument(help="A digest, a prefix of it, or pipeline@prefix.")]

STYLES = {"pass": "green", "fail": "red", "inconclusive": "yellow"}


def gates(found: ethics_audit_pb2.Audit) -> Table:
    """Table with a line a gate: the rule, what was measured with its interval, the verdict and why."""
    drawn = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for gate in found.gates:
        measured = (
            f"{gate.value.estimate:.3f} [{gate.value.lower:.3f}, {gate.value.upper:.3f}]"
            if gate.HasField("value")
            else "–"
        )
        verdict = Text(gate.verdict, style=STYLES[gate.verdict])
        drawn.add_row("audit", rule(gate), measured, verdict, gate.reason)
    if found.verdict and not found.gates:
        said = "the pipeline file has no gates; what was measured is in the report"
        drawn.add_row("audit", "no gates", "–", Text(NOT_JUDGED, style="bright_black"), said)
    return drawn


def notes(found: ethics_audit_pb2.Audit) -> list[Text]:
    """Sentences of the signed result that are to be read with the verdict."""
    said = json.loads(found.result_json).get("notes", []) if found.result_json else []
    return [Text(note, style="yellow") for note in said]


def rule(gate: ethics_audit_pb2.Gate) -> str:
    """A gate as the file has it: `AUROC ≥ 0.7`."""
    sign = "≥" if gate.bound == "at_least" else "≤"
    return f"{words(gate.metric)}{f' by {gate.by}' if gate.by else ''} {sign} {gate.limit:g}"


def audit(version: Version, as_json_: AsJson = False) -> None:
    """A version's verdict, gate by gate. Ends with 3 unless it passed."""
    with Penstock() as penstock:
        found = penstock.audits.get(version)
    named = f"audit {found.audit_id} of {version_name(found.pipeline, found.digest)}"
    failure = [Text(f"{found.failure}. {found.remedy}", style="red")] if found.failure else []
    used = [f"cost: {costs.words(found.cost)}"] if found.HasField("cost") else []
    verdict = f"{named}: {worded(found.verdict, found.gates) or state_of(found)}"
    show(found, verdict, *failure, gates(found), *notes(found), *used, as_json=as_json_)
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
    with Penstock() as penstock:
        found = penstock.audits.report(version, format="json" if as_json_ else "html")
        if as_json_:
            typer.echo(found.decode())
            return
        path = to or Path(f"audit-{short_digest(penstock.models.get(version).digest)}.html")
    write_page(path, found, open_=open_)
