"""`edge`: what sites that serve the pipeline may do."""

from __future__ import annotations

from datetime import timedelta
from typing import Final, Literal

from pydantic import Field

from penstock.contracts.pipeline.base import Duration, FieldName, Model

PSEUDONYM_CHARACTERS: Final = 32


class Fallback(Model):
    when: Literal["missing"]
    """`missing`: the site has heard of a promoted version and cannot serve it, as it is not whole yet or
    was refused there, and has no other.
    """
    within: Duration = timedelta(seconds=2)
    """Longest time that a caller waits for the platform. A caller's own deadline, where it is sooner,
    counts.
    """


class Edge(Model):
    may_leave: tuple[FieldName, ...] | None = Field(default=None)
    """Fields whose values leave the site, in events and in records of predictions; all others are left
    out of both at the site. Id, key and timestamp leave always. By default every field that is not
    `personal`.
    """
    pseudonymize: tuple[FieldName, ...] = Field(default=(), exclude_if=lambda said: not said)
    """Fields, texts or categories, that leave in events as pseudonyms: 32 hexadecimal digits, an HMAC of
    the value with a key of the pipeline. The same value has the same pseudonym at every site. The
    key of the entity may be one of them, where one source alone has that entity.
    """
    fallback: Fallback | None = Field(default=None, exclude_if=lambda said: said is None)
    """Where the platform answers instead of the site. Every feature has to be of a field that may leave.
    By default nowhere.
    """
    label_below: float | None = Field(default=None, gt=0, le=1, exclude_if=lambda said: said is None)
    """Confidence below which the record of a site's prediction is marked `for_labelling`: 0 lies on a
    decision's edge, 1 as far from it as there is. By default none is marked.
    """
