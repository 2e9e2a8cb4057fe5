"""sites."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.client.cli.output import AsJson, show, table, when
from penstock.client.client import Penstock
from penstock.contracts.durations import parse_duration
from penstock.contracts.errors import Invalid
from penstock.edge_gateway.v1 import edge_gateway_pb2 as edge

Name = Annotated[str, typer.Argument(help="As `penstock sites list` shows it.")]

sites = typer.Typer(help="Sites: machines elsewhere that serve the same models.", no_args_is_help=True)


@sites.command()
def enroll(
    name: Annotated[str, typer.Argument(help="Of the new site: branch-1.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Shut out the machine that has this name now.")
    ] = False,
    valid: Annotated[str, typer.Option("--valid", help="How long the token may be used: 2h, 7d.")] = "24h",
    as_json_: AsJson = False,
) -> None:
    """Print the token by which one machine becomes this site, once."""
    try:
        valid_for = parse_duration(valid)
    except ValueError as error:
        raise Invalid(str(error), where="--valid") from error
    with Penstock() as penstock:
        made = penstock.sites.enroll(name, replace=replace, valid_for=valid_for)
    show(
        made,
        f"{made.site} joins {made.hub} with this token, once, until {when(made.expires_at)} UTC;"
        f" the hub's authority is {made.authority[:16]}.",
        f"There: python -m penstock_edge_gateway.site join {made.token}",
        as_json=as_json_,
    )


@sites.command("list")
def list_(as_json_: AsJson = False) -> None:
    """List all sites."""
    with Penstock() as penstock:
        found = penstock.sites.list()
    columns = ("site", "state", "since", "start", "last contact")
    rows = [(one.name, one.state, one.since, one.incarnation, one.last_contact) for one in found]
    show(
        list(found),
        table(columns, rows, empty="no site yet; make one with: penstock sites enroll NAME"),
        as_json=as_json_,
    )


@sites.command("show")
def show_(name: Name, as_json_: AsJson = False) -> None:
    """Show one site."""
    with Penstock() as penstock:
        found = penstock.sites.get(name)
    show(found, *_lines(found), as_json=as_json_)


@sites.command()
def revoke(name: Name, as_json_: AsJson = False) -> None:
    """Shut a site out from now on. What it has on its disk it keeps."""
    with Penstock() as penstock:
        found = penstock.sites.revoke(name)
    show(found, *_lines(found), as_json=as_json_)


def _lines(site: edge.Site) -> list[str]:
    key = f", certificate {site.key[:16]}" if site.key else ""
    return [
        f"{site.name}: {site.state} since {when(site.since)} UTC{key}",
        f"start {site.incarnation}, last contact {when(site.last_contact)}",
    ]
