"""Compatibility of a pipeline's new file with its published events, stored rows and served models.

The rule: who publishes and who holds data under the old file must not notice the new one. So a
source that holds data only grows: optional fields, wider ranges, more values. A source without data
may change at will, so that a first mistake costs nothing. What is learned from the data (features,
model, trainer, gates, serving) is free: it takes effect with the next version.

Pure: two pipelines in, reasons out, each at the path of the key that changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from math import inf

from penstock.contracts.pipeline import Pipeline, Source, SourceField
from penstock.contracts.rules import Path, Problem

OPEN = (-inf, inf)


def incompatible(old: Pipeline, new: Pipeline, with_data: Set[str]) -> list[Problem]:
    """Lists the reasons why `new` may not take the place of `old`; empty when it may. `with_data`:
    sources of `old` that events were published to.
    """
    if not with_data:
        return list(_sources(old, new, with_data))
    return [*_entities(old, new), *_sources(old, new, with_data), *_target(old, new)]


def _entities(old: Pipeline, new: Pipeline) -> Iterator[Problem]:
    if new.entity != old.entity:
        yield Problem(
            ("entities",),
            f"the first entity was `{old.entity}` and keys all stored rows; it cannot become `{new.entity}`",
        )
    elif new.key != old.key:
        yield Problem(
            ("entities", new.entity, "key"),
            f"was `{old.key}`, and stored rows are keyed by it; declare a pipeline of another name",
        )


def _sources(old: Pipeline, new: Pipeline, with_data: Set[str]) -> Iterator[Problem]:
    for name, before in old.sources.items():
        at: Path = ("sources", name)
        after = new.sources.get(name)
        if after is None:
            if name in with_data:
                yield Problem(
                    ("sources",),
                    f"`{name}` holds data and cannot be left out; keep it declared and drop its features",
                )
            continue
        if after.partitions < before.partitions:
            yield Problem(
                (*at, "partitions"),
                f"Kafka cannot lower the partitions of a topic; there are {before.partitions}",
            )
        if name in with_data:
            yield from _source(at, before, after)


def _source(at: Path, old: Source, new: Source) -> Iterator[Problem]:
    for key, meaning in (
        ("entity", "joins"),
        ("id", "finds repeated events"),
        ("timestamp", "orders events"),
    ):
        before, after = getattr(old, key), getattr(new, key)
        if before != after:
            yield Problem(
                (*at, key),
                f"was `{before}`, which {meaning}; a source with data keeps it; declare another source",
            )
    if old.timezone and new.timezone != old.timezone:
        yield Problem(
            (*at, "timezone") if new.timezone else at,
            f"was `{old.timezone}`, and published times are in it; declare another source",
        )
    if new.format != old.format:
        yield Problem(
            (*at, "format") if "format" in new.model_fields_set else at,
            f"was `{old.format.type}`, as published events are written; declare another source",
        )
    for name, field in old.fields.items():
        if name not in new.fields:
            yield Problem(
                (*at, "fields"),
                f"`{name}` is missing: events that carry it would be rejected; keep it declared and drop its"
                " features",
            )
        else:
            yield from _field((*at, "fields", name), field, new.fields[name])
    for name in new.fields.keys() - old.fields.keys():
        if new.fields[name].required:
            yield Problem(
                (*at, "fields", name, "required"),
                "events that are published today lack this new field; leave out `required`",
            )


def _field(at: Path, old: SourceField, new: SourceField) -> Iterator[Problem]:
    if new.type != old.type:
        yield Problem((*at, "type"), f"was {old.type}, and stored values are; declare a new field")
        return
    if new.unit != old.unit:
        yield Problem(
            (*at, "unit") if new.unit else at,
            f"the unit was {old.unit or 'none'}, and stored values are in it; declare a new field",
        )
    (low, high), (least, most) = new.range or OPEN, old.range or OPEN
    if low > least or high < most:
        was = f"[{old.range[0]:g}, {old.range[1]:g}]" if old.range else "open"
        yield Problem((*at, "range"), f"may only widen; it was {was}")
    if new.values is not None and (old.values is None or set(old.values) - set(new.values)):
        gone = (
            ", ".join(f"`{value}`" for value in old.values if value not in new.values)
            if old.values
            else "any value was allowed"
        )
        yield Problem((*at, "values"), f"may only grow; {'missing: ' + gone if old.values else gone}")
    if new.max_length < old.max_length:
        yield Problem((*at, "max_length"), f"may only grow; it was {old.max_length}")
    if new.required and not old.required:
        yield Problem((*at, "required"), "was optional: events that lack it are published today")
    if old.personal and not new.personal:
        yield Problem(
            (*at, "personal") if "personal" in new.model_fields_set else at,
            "stored values are personal and stay so",
        )


def _target(old: Pipeline, new: Pipeline) -> Iterator[Problem]:
    name, target = next(iter(new.targets.items()))
    at: Path = ("targets", name)
    for key, path in (("type", "type"), ("source_field", "from"), ("positive", "positive")):
        before, after = getattr(old.target, key), getattr(target, key)
        if before != after:
            yield Problem(
                (*at, path) if key in target.model_fields_set else at,
                f"`{path}` was {'unset' if before is None else before}: versions of one pipeline answer one"
                " question; name another",
            )
