"""Events and records without what may not leave the site, or with pseudonyms in its place."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from penstock.contracts.errors import Conflict
from penstock.contracts.formats import decoder
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.validation import Accepted
from penstock.serving.model import Model

Pseudonym = Callable[[str, str, str], str]
"""Pseudonym by pipeline, field and value; raises Unavailable."""


Leaving = Callable[[bytes, Accepted], tuple[str, bytes]]
"""Entity and event as they leave, from the event and what the rules say of it."""


def leaving(pipeline: Pipeline, source: str, pseudonym: Pseudonym) -> Leaving:
    """Makes what an accepted event of the source goes through before it is kept: its entity and the event
    as they leave. Raises Conflict where ingest would reject all that is left.
    """
    withheld, replaced = pipeline.withheld(source), pipeline.pseudonymized(source)
    fields = pipeline.sources[source].fields
    if required := sorted(name for name in withheld - replaced if fields[name].required):
        raise Conflict(
            f"`{required[0]}` is required in every event of `{source}` and may not leave a site",
            where="edge.may_leave",
            remedy=f"List it in `edge: {{may_leave: [{required[0]}, …]}}`, or publish to the platform itself",
        )
    decode = decoder(pipeline.sources[source])
    key = pipeline.entities[pipeline.sources[source].entity].key

    def leave_out(event: bytes, accepted: Accepted) -> tuple[str, bytes]:
        said = decode(event)
        if withheld.isdisjoint(said):
            return accepted.entity, event
        values = accepted.fields | {key: accepted.entity}
        left = {name: value for name, value in said.items() if name not in withheld}
        left |= {
            name: pseudonym(pipeline.pipeline, name, str(values[name]))
            for name in replaced & said.keys()
            if values[name] is not None
        }
        return str(left[key]), orjson.dumps(left)

    return leave_out if withheld else lambda event, accepted: (accepted.entity, event)


def withheld_inputs(model: Model, applied: Pipeline | None) -> list[str]:
    """Lists features of the model that may not leave in a record, by the file that it was made with and by
    the one that is applied, None where the site has none: the stricter counts.
    """
    files = [file for file in (model.package.pipeline, applied) if file]
    sources = {reference.partition(".")[0] for reference in model.references.values()}
    withheld = {
        f"{source}.{field}"
        for file in files
        for source in sources & file.sources.keys()
        for field in file.withheld(source)
    }
    return [name for name, reference in model.references.items() if reference in withheld]
