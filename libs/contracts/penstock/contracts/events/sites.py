"""Events about sites."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from penstock.contracts.events.event import Count, Digest, Event, Frozen, Moment, PipelineName
from penstock.contracts.events.versions import Served

SiteName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]


class RefusedAtSite(Frozen):
    digest: Digest
    why: str


class SiteServing(Frozen):
    """The version that a site serves of a pipeline, and one that it would not serve."""

    pipeline: PipelineName
    serving: Served | None
    refused: RefusedAtSite | None


class SiteLane(Frozen):
    """Part of a site's spool: what still has to go to the hub."""

    lane: Annotated[str, Field(max_length=32)]
    records: Count
    bytes: Count
    capacity_bytes: Count
    dropped: Count  # since the spool was made
    full_since: Moment | None


class SiteReported(Event, topic="edge-sites.v1", key="{site}"):
    """Whole state of a site as the hub knows it: on a change, and every quarter of an hour."""

    site: SiteName
    state: Literal["invited", "enrolled", "revoked"]
    since: Moment
    certificate: Annotated[str, Field(max_length=64)] | None  # its sha256, in hexadecimal digits
    incarnation: Count  # number of its newest start
    last_contact: Moment | None
    clock_ahead_s: float | None  # of the site's clock against the hub's
    trust_serial: Count | None  # of the newest update of the trust store that the site has
    pipelines: tuple[SiteServing, ...]
    lanes: tuple[SiteLane, ...]
    reported_at: Moment
