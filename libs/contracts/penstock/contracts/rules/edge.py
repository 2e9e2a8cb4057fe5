"""Rules for `edge`: what leaves a site has to be enough for ingest to accept it."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.contracts.pipeline import Pipeline
from penstock.contracts.rules.problem import Problem, failing, nearest


def edge(pipeline: Pipeline) -> Iterator[Problem]:
    named = pipeline.edge.may_leave
    fields = {name: field for source in pipeline.sources.values() for name, field in source.fields.items()}
    for index, name in enumerate(named or ()):
        at = ("edge", "may_leave", index)
        yield from failing(
            (name not in fields, at, f"no source has a field `{name}`{nearest(name, fields)}"),
            ((named or ()).count(name) > 1, at, f"`{name}` is listed twice"),
        )
    if "edge" not in pipeline.model_fields_set:
        return
    for source in pipeline.sources:
        for name in pipeline.withheld(source):
            yield from failing(
                (
                    pipeline.sources[source].fields[name].required,
                    ("edge", "may_leave"),
                    f"`{source}.{name}` is required and may not leave a site: ingest would reject every event"
                    " published there; list it, or let it be missing",
                )
            )
