"""Rules of `sources`: what names an event, what a file's columns are, options that fit their field."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.contracts.pipeline import Pipeline, Source, SourceField
from penstock.contracts.pipeline.sources import PUBLISHING_TIME, ROW_IDS
from penstock.contracts.pipeline.variants import Path
from penstock.contracts.rules.problem import Problem, failing, nearest


def sources(pipeline: Pipeline) -> Iterator[Problem]:
    for name, source in pipeline.sources.items():
        yield from _source(pipeline, name, source)


def _source(pipeline: Pipeline, name: str, source: Source) -> Iterator[Problem]:
    at: Path = ("sources", name)
    known = source.entity in pipeline.entities
    yield from failing(
        (
            not known,
            (*at, "entity"),
            f"no entity `{source.entity}`{nearest(source.entity, pipeline.entities)}",
        ),
        (
            known and source.entity != pipeline.entity,
            (*at, "entity"),
            f"this release joins by the first entity, `{pipeline.entity}`; `{source.entity}` is another",
        ),
        (
            source.timestamp in (source.id, pipeline.key),
            (*at, "timestamp"),
            f"`{source.timestamp}` names the event or its entity; its time is a field of its own",
        ),
        (
            not source.deduplicate,
            (*at, "deduplicate"),
            "a publisher that tries again repeats an event: write for how long that is known, as in 7d",
        ),
        (not source.retention, (*at, "retention"), "nothing would be kept; write for how long, as in 400d"),
    )
    yield from _columns(pipeline, at, source)
    marks = source.missing
    yield from failing(
        (
            "" in marks or len(set(marks)) < len(marks),
            (*at, "missing"),
            "list each mark once; an empty text is missing anyway",
        ),
    )
    for field_name, field in source.fields.items():
        yield from _field((*at, "fields", field_name), field)
        both = [mark for mark in marks if mark in (field.values or ())]
        yield from failing(
            (
                both,
                (*at, "fields", field_name, "values"),
                f"`{''.join(both[:1])}` is a value and a mark of `missing`; it can be one of the two",
            ),
        )


def _columns(pipeline: Pipeline, at: Path, source: Source) -> Iterator[Problem]:
    names = dict.fromkeys([source.id, pipeline.key, source.timestamp])
    for name, column in source.columns.items():
        said = (*at, "columns", name)
        yield from failing(
            (
                name not in names,
                said,
                f"`{name}` is not the id, key or timestamp{nearest(name, names)} (a field names its column"
                " by `from`)",
            ),
            (
                column == PUBLISHING_TIME and name != source.timestamp,
                said,
                f"`{PUBLISHING_TIME}` is for the timestamp, `{source.timestamp}`",
            ),
            (
                column in ROW_IDS and name == source.timestamp,
                said,
                f"`{column}` is no time; write `{PUBLISHING_TIME}`",
            ),
        )
    first: dict[str, str] = {}
    for name, field in source.fields.items():
        column = field.column_of(name)
        if column in first:
            yield Problem((*at, "fields", name), f"`{first[column]}` is read from the column `{column}`, too")
        first.setdefault(column, name)


_OPTIONS = {
    "range": ("number",),
    "unit": ("number",),
    "values": ("category",),
    "max_length": ("text", "category"),
}  # types of fields by the option that only they have


def _field(at: Path, field: SourceField) -> Iterator[Problem]:
    values = field.values
    return failing(
        *(
            (
                option in field.model_fields_set and field.type not in types,
                (*at, option),
                f"`{option}` is for {' and '.join(types)} fields; this one is {field.type}",
            )
            for option, types in _OPTIONS.items()
        ),
        (
            field.required and field.on_violation == "set_missing",
            (*at, "on_violation"),
            "a `required` field is never set missing; leave one of the two out",
        ),
        (
            field.range and field.range[0] > field.range[1],
            (*at, "range"),
            "the lower bound is above the upper one; write the lower one first",
        ),
        (
            values is not None and (not values or len(set(values)) < len(values) or "" in values),
            (*at, "values"),
            "list each allowed value once, none of them empty",
        ),
    )
