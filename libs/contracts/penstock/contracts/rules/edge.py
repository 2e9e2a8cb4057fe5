"""Rules for `edge`: what leaves a site has to be enough for ingest to accept it, for models to learn from
it, and for them to be asked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import timedelta
from typing import Final

from penstock.contracts.pipeline import Pipeline
from penstock.contracts.pipeline.edge import PSEUDONYM_CHARACTERS
from penstock.contracts.pipeline.variants import Path
from penstock.contracts.rules.problem import Problem, failing, nearest

LONGEST: Final = timedelta(seconds=30)  # that the door gives a prediction


def edge(pipeline: Pipeline) -> Iterator[Problem]:
    fields = {name: field for source in pipeline.sources.values() for name, field in source.fields.items()}
    yield from _named(pipeline.edge.may_leave or (), fields, ("edge", "may_leave"))
    keys = [entity.key for entity in pipeline.entities.values()]
    ids = [name for source in pipeline.sources.values() for name in (source.id, source.timestamp)]
    yield from _named(pipeline.edge.pseudonymize, {*fields, *keys, *ids}, ("edge", "pseudonymize"))
    for index, name in enumerate(pipeline.edge.pseudonymize):
        yield from _pseudonym(pipeline, name, ("edge", "pseudonymize", index))
    if "edge" not in pipeline.model_fields_set:
        return
    yield from failing(
        (
            pipeline.edge.label_below and pipeline.target.type == "regression",
            ("edge", "label_below"),
            "a number has no decision's edge, and so no confidence; leave `label_below` out",
        )
    )
    for source in pipeline.sources:
        for name in sorted(pipeline.withheld(source) - pipeline.pseudonymized(source)):
            yield from failing(
                (
                    pipeline.sources[source].fields[name].required,
                    ("edge", "may_leave"),
                    f"`{source}.{name}` is required and may not leave a site: ingest would reject every event"
                    " published there; list it, or let it be missing",
                )
            )
    yield from _fallback(pipeline)


def _named(names: tuple[str, ...], known: Collection[str], at: Path) -> Iterator[Problem]:
    for index, name in enumerate(names):
        yield from failing(
            (name not in known, (*at, index), f"no source has a field `{name}`{nearest(name, known)}"),
            (names.count(name) > 1, (*at, index), f"`{name}` is listed twice"),
        )


def _pseudonym(pipeline: Pipeline, name: str, at: Path) -> Iterator[Problem]:
    """Problems of a field of which a pseudonym leaves in place of the value."""
    yield from failing(
        (
            name in (pipeline.edge.may_leave or ()),
            at,
            f"`{name}` leaves as it is, by `may_leave`: list it in one of the two",
        ),
        (
            any(name in (source.id, source.timestamp) for source in pipeline.sources.values()),
            at,
            f"`{name}` is an id or a timestamp, which leave always",
        ),
        (
            _joins(pipeline, name),
            at,
            f"sources are joined by `{name}`, and what is published to the platform itself has no pseudonym:"
            " nothing of the two would be found together",
        ),
    )
    for source, declared in pipeline.sources.items():
        if (field := declared.fields.get(name)) is None:
            continue
        said = f"`{source}.{name}`"
        yield from failing(
            (
                field.type not in ("text", "category"),
                at,
                f"{said} is a {field.type}, and a pseudonym is a text: ingest would reject it; leave it out",
            ),
            (field.values is not None, at, f"{said} has `values`, and no pseudonym is one of them"),
            (
                field.max_length < PSEUDONYM_CHARACTERS,
                at,
                f"{said} has at most {field.max_length} characters, and a pseudonym {PSEUDONYM_CHARACTERS}",
            ),
            (
                f"{source}.{name}" in _learned(pipeline),
                at,
                f"{said} is learned from: a model would know pseudonyms, and be asked for values",
            ),
        )


def _joins(pipeline: Pipeline, name: str) -> bool:
    """Tells whether several sources are of an entity whose key this is."""
    return any(
        sum(source.entity == entity for source in pipeline.sources.values()) > 1
        for entity, declared in pipeline.entities.items()
        if declared.key == name
    )


def _learned(pipeline: Pipeline) -> set[str]:
    features = [feature.source_field for feature in pipeline.features.values()]
    return {*(features or pipeline.default_features()), pipeline.target.source_field}


def _fallback(pipeline: Pipeline) -> Iterator[Problem]:
    at = ("edge", "fallback")
    if pipeline.edge.fallback is None:
        return
    within = pipeline.edge.fallback.within
    yield from failing(
        (
            not timedelta() < within <= LONGEST,
            (*at, "within"),
            f"write more than 0s, and at most {LONGEST.seconds}s: no prediction may take longer",
        )
    )
    for name, reference in pipeline.features_withheld():
        yield Problem(
            at,
            f"the model reads `{name}` of `{reference}`, which may not leave a site, so the platform cannot"
            " be asked; list it in `may_leave`, or leave `fallback` out",
        )
