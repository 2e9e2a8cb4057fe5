"""sites."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer
from rich.console import RenderableType

from penstock.client.cli.output import AsJson, show, table, when
from penstock.client.client import Penstock
from penstock.contracts.digests import short_digest
from penstock.contracts.durations import parse_duration
from penstock.contracts.errors import Invalid
from penstock.edge_gateway.v1 import edge_gateway_pb2 as edge
from penstock.edge_gateway.v1 import site_pb2

Name = Annotated[str, typer.Argument(help="As `penstock sites list` shows it.")]

sites = typer.Typer(help="Sites: machines elsewhere that serve the same models.", no_args_is_help=True)


@sites.command()
def enroll(
    name: Annotated[str, typer.Argument(help="Of the new site: branch-1.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Shut out the machine that has this name now.")
    ] = False,
    valid: Annotated[str, typer.Option("--valid", help="How long the token may be used: 2h, 7d.")] = "24h",
    token: Annotated[bool, typer.Option("--token", help="Print the token alone.")] = False,
    as_json_: AsJson = False,
) -> None:
    """Print the token by which one machine becomes this site, once."""
    try:
        valid_for = parse_duration(valid)
    except ValueError as error:
        raise Invalid(str(error), where="--valid") from error
    with Penstock() as penstock:
        made = penstock.sites.enroll(name, replace=replace, valid_for=valid_for)
    if token:
        typer.echo(made.token)
        return
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
    columns = ("site", "state", "since", "start", "last contact", "serves", "to forward")
    rows = [
        (
            one.name,
            one.state,
            one.since,
            one.incarnation,
            one.last_contact,
            ", ".join(f"{each.pipeline} {each.generation}" for each in one.status.pipelines if each.digest),
            sum(lane.records for lane in one.status.lanes),
        )
        for one in found
    ]
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


def _lines(site: edge.Site) -> list[RenderableType]:
    key = f", certificate {site.key[:16]}" if site.key else ""
    said: list[RenderableType] = [
        f"{site.name}: {site.state} since {when(site.since)} UTC{key}",
        f"start {site.incarnation}, last contact {when(site.last_contact)}{_clock(site)}",
    ]
    if site.status.HasField("trust_signed_at"):
        said.append(
            f"trusts the keys of {when(site.status.trust_signed_at)} UTC, update {site.status.trust_serial}"
        )
    if site.held_back:
        said.append(
            f"not told the newest file and versions of {', '.join(site.held_back)}: its release cannot carry"
            " the file out; upgrade the site"
        )
    if site.status.pipelines:
        said.append(_pipelines(site.status))
    if site.status.lanes:
        said.append(_lanes(site.status))
    if site.status.rejects:
        said.append(rejects_table([site]))
    return said


def _pipelines(status: site_pb2.SiteStatus) -> RenderableType:
    columns = ("pipeline", "serves", "generation", "since", "by the cloud", "refuses", "why")
    rows = [
        (
            one.pipeline,
            short_digest(one.digest),
            one.generation,
            one.since,
            f"{one.answered_by_cloud} ({one.breaker})" if one.breaker else "",
            short_digest(one.refused),
            one.why,
        )
        for one in status.pipelines
    ]
    return table(columns, rows, empty="")


def _lanes(status: site_pb2.SiteStatus) -> RenderableType:
    columns = ("to forward", "records", "KiB", "of MiB", "dropped", "full since", "full in")
    rows = [
        (
            lane.lane,
            lane.records,
            lane.bytes >> 10,
            lane.capacity_bytes >> 20,
            lane.dropped,
            lane.full_since,
            f"{lane.full_in.seconds / 86_400:.1f} days" if lane.HasField("full_in") else "",
        )
        for lane in status.lanes
    ]
    return table(columns, rows, empty="")


def _clock(site: edge.Site) -> str:
    if not site.HasField("clock_ahead"):
        return ""
    ahead_s = site.clock_ahead.ToTimedelta().total_seconds()
    return f", its clock {abs(ahead_s):.1f} s {'ahead' if ahead_s > 0 else 'behind'}"


def rejects_table(found: Iterable[edge.Site]) -> RenderableType:
    """Events that sites refused, each since its start."""
    columns = ("site", "pipeline", "source", "rejects", "events", "first", "why")
    rows = [
        (site.name, one.pipeline, one.source, one.reason, one.events, one.first, one.detail)
        for site in found
        for one in site.status.rejects
    ]
    return table(columns, rows, empty="")
