"""`edge`: what sites that serve the pipeline may do."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from penstock.contracts.pipeline.base import FieldName, Model

PSEUDONYM_CHARACTERS: Final = 32


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
