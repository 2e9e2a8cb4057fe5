"""`edge`: what sites that serve the pipeline may do."""

from __future__ import annotations

from pydantic import Field

from penstock.contracts.pipeline.base import FieldName, Model


class Edge(Model):
    may_leave: tuple[FieldName, ...] | None = Field(default=None)
    """Fields whose values leave the site, in events and in records of predictions; all others are left
    out of both at the site. Id, key and timestamp leave always. By default every field that is not
    `personal`.
    """
