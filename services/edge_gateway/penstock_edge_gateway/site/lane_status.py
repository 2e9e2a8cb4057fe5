"""A lane as the site reports it."""

from __future__ import annotations

from datetime import timedelta

from penstock.edge_gateway.v1 import site_pb2
from penstock_edge_gateway.site.lane import Lane


def lane_status(lane: Lane) -> site_pb2.SiteLane:
    """Reads the spool: blocks for a moment."""
    depth = lane.spool.depth()
    said = site_pb2.SiteLane(
        lane=lane.name,
        records=depth.records,
        bytes=depth.bytes,
        capacity_bytes=depth.size,
        dropped=depth.dropped + lane.lost,
    )
    if depth.oldest_s is not None:
        said.oldest.FromTimedelta(timedelta(seconds=depth.oldest_s))
    if depth.full_in_s is not None:
        said.full_in.FromTimedelta(timedelta(seconds=min(depth.full_in_s, 100 * 365 * 86_400)))
    if lane.full_since is not None:
        said.full_since.FromDatetime(lane.full_since)
    return said
