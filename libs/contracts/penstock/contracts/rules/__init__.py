"""Rules that no single key of a pipeline file can state: references that must exist, options that fit their
field, gates that make sense.

Pure: a pipeline in, problems out, each at the path of the key that is wrong.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from datetime import timedelta

from penstock.contracts.measures import MEASURES, Measure, Task, over_rows
from penstock.contracts.pipeline import Gate, Pipeline, Scalar, SourceField
from penstock.contracts.pipeline.variants import Path, unused
from penstock.contracts.rules.features import clip_bounds, features
from penstock.contracts.rules.problem import Problem, nearest, unknown_key, unknown_reference
from penstock.contracts.rules.training import training

__all__ = [
    "Path",
    "Problem",
    "clip_bounds",
    "nearest",
    "problems",
    "unknown_key",
]

RESERVED_NAMES = frozenset({"stats"})
"""`/v2/models/stats` is Triton's own."""

LONGEST_DELAY = timedelta(seconds=10)


def problems(pipeline: Pipeline) -> list[Problem]:
    """Finds all problems, in the file's order of sections, after keys that mean nothing where they
    stand.
    """
    return [
        *unused_keys(pipeline),
        *_names(pipeline),
        *_sources(pipeline),
        *features(pipeline),
        *_target(pipeline),
        *training(pipeline),
        *_decision(pipeline),
        *_groups(pipeline),
        *itertools.chain.from_iterable(
            _gate(pipeline, index, gate) for index, gate in enumerate(pipeline.audit.gates)
        ),
        *_promotion(pipeline),
        *_serving(pipeline),
    ]


def unused_keys(pipeline: Pipeline) -> list[Problem]:
    """Keys of another type than the one that was chosen, which a stored pipeline may hold."""
    return [Problem(place.path, unknown_key(place)) for place in unused(pipeline)]


def _names(pipeline: Pipeline) -> Iterator[Problem]:
    if pipeline.pipeline in RESERVED_NAMES:
        yield Problem(("pipeline",), f"`{pipeline.pipeline}` is reserved; choose another name")


def _sources(pipeline: Pipeline) -> Iterator[Problem]:
    for name, source in pipeline.sources.items():
        at: Path = ("sources", name)
        if source.entity not in pipeline.entities:
            yield Problem(
                (*at, "entity"), f"no entity `{source.entity}`{nearest(source.entity, pipeline.entities)}"
            )
        elif source.entity != pipeline.entity:
            yield Problem(
                (*at, "entity"),
                f"this release joins by the first entity, `{pipeline.entity}`; `{source.entity}` is another",
            )
        if source.timestamp in (source.id, pipeline.key):
            yield Problem(
                (*at, "timestamp"),
                f"`{source.timestamp}` names the event or its entity; its time is a field of its own",
            )
        if not source.deduplicate:
            yield Problem(
                (*at, "deduplicate"),
                "a publisher that tries again repeats an event: write for how long that is known, as in 7d",
            )
        if not source.retention:
            yield Problem((*at, "retention"), "nothing would be kept; write for how long, as in 400d")
        for field_name, field in source.fields.items():
            yield from _field((*at, "fields", field_name), field)


def _field(at: Path, field: SourceField) -> Iterator[Problem]:
    only = {
        "range": ("number",),
        "unit": ("number",),
        "values": ("category",),
        "max_length": ("text", "category"),
    }
    for option, types in only.items():
        if option in field.model_fields_set and field.type not in types:
            yield Problem(
                (*at, option), f"`{option}` is for {' and '.join(types)} fields; this one is {field.type}"
            )
    if field.required and field.on_violation == "set_missing":
        yield Problem(
            (*at, "on_violation"), "a `required` field is never set missing; leave one of the two out"
        )
    if field.range and field.range[0] > field.range[1]:
        yield Problem((*at, "range"), "the lower bound is above the upper one")
    if field.values is not None and (
        not field.values or len(set(field.values)) < len(field.values) or "" in field.values
    ):
        yield Problem((*at, "values"), "list each allowed value once, none of them empty")


def _target(pipeline: Pipeline) -> Iterator[Problem]:
    name, target = next(iter(pipeline.targets.items()))
    at: Path = ("targets", name)
    if (missing := unknown_reference(pipeline, target.source_field)) is not None:
        yield Problem((*at, "from"), missing)
        return
    field = pipeline.field(target.source_field)
    fitting = {
        "binary": ("boolean", "category", "number"),
        "multiclass": ("category",),
        "regression": ("number",),
    }[target.type]
    if field.type not in fitting:
        yield Problem(
            (*at, "type"),
            f"a {target.type} target needs a {' or '.join(fitting)} field; `{target.source_field}` is"
            f" {field.type}",
        )
    if target.positive is not None and target.type != "binary":
        yield Problem((*at, "positive"), "`positive` is for binary targets")
    elif target.positive is not None and not _may_equal(target.positive, field):
        yield Problem(
            (*at, "positive"),
            f"`{target.positive}` never equals a value of `{target.source_field}`, which is {field.type}",
        )
    if target.type == "binary" and field.type != "boolean" and target.positive is None:
        yield Problem(at, f"say which value of `{target.source_field}` counts as 1: `positive: …`")
    if (
        target.type == "binary"
        and field.values
        and target.positive is not None
        and str(target.positive) not in field.values
    ):
        yield Problem(
            (*at, "positive"),
            f"`{target.positive}` is no value of"
            f" `{target.source_field}`{nearest(str(target.positive), field.values)}",
        )


def _may_equal(value: Scalar, field: SourceField) -> bool:
    match field.type:
        case "boolean":
            return isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case _:
            return True


def _decision(pipeline: Pipeline) -> Iterator[Problem]:
    threshold, abstain = pipeline.decision.threshold, pipeline.decision.abstain
    if (threshold.choose == "fixed") != (threshold.value is not None):
        yield Problem(("decision", "threshold"), "`choose: fixed` and `value` go together")
    if threshold.choose == "fixed" and "on" in threshold.model_fields_set:
        yield Problem(
            ("decision", "threshold", "on"), "a fixed threshold is chosen on no split; leave `on` out"
        )
    if abstain is not None and not 0 <= abstain[0] < abstain[1] <= 1:
        yield Problem(("decision", "abstain"), "give two probabilities, the lower one first")
    if pipeline.target.type != "binary" and "decision" in pipeline.model_fields_set:
        yield Problem(("decision",), "a threshold and abstaining are for binary targets")


def _groups(pipeline: Pipeline) -> Iterator[Problem]:
    fields = {name: field for source in pipeline.sources.values() for name, field in source.fields.items()}
    for name, group in pipeline.audit.groups.items():
        at: Path = ("audit", "groups", name)
        try:
            field = pipeline.field(pipeline.reference(name))
        except KeyError:
            said = "more than one source has a field" if name in fields else "no source has a field"
            yield Problem(
                at, f"{said} `{name}`{nearest(name, fields) if name not in fields else '; rename one'}"
            )
            continue
        if field.type == "number" and not group.bins:
            yield Problem(at, "a number is grouped by `bins`, as in [25, 40, 60]")
        if field.type != "number" and group.bins:
            yield Problem((*at, "bins"), f"`bins` are for numbers; `{name}` is {field.type}")
        if field.type == "text":
            yield Problem(at, "a text field makes no groups")
        if group.bins and list(group.bins) != sorted(set(group.bins)):
            yield Problem((*at, "bins"), "edges must rise")


def _gate(pipeline: Pipeline, index: int, gate: Gate) -> Iterator[Problem]:
    at: Path = ("audit", "gates", index)
    measure = MEASURES[gate.metric]
    higher = measure.higher_is_better
    if (gate.at_least is None) == (gate.at_most is None):
        yield Problem(at, f"a gate has one limit: `{'at_least' if higher else 'at_most'}`")
    elif higher and gate.at_most is not None:
        yield Problem((*at, "at_most"), f"`{gate.metric}` is better when higher; use `at_least`")
    elif not higher and gate.at_least is not None:
        yield Problem((*at, "at_least"), f"`{gate.metric}` is better when lower; use `at_most`")
    limit = gate.at_least if higher else gate.at_most
    low, high = measure.range
    if limit is not None and not low <= limit <= high:
        yield Problem(
            (*at, "at_least" if higher else "at_most"),
            f"`{gate.metric}` lies {f'from {low:g} to {high:g}' if high < math.inf else 'above 0'}",
        )
    if measure.between_groups:
        if gate.by is None:
            yield Problem(at, f"`{gate.metric}` compares groups: name them with `by`")
        elif gate.by not in pipeline.audit.groups:
            yield Problem(
                (*at, "by"),
                f"`{gate.by}` is no group of `audit.groups`{nearest(gate.by, pipeline.audit.groups)}",
            )
    elif gate.by is not None:
        yield Problem((*at, "by"), f"`{gate.metric}` is judged over all rows; leave `by` out")
    kind = pipeline.target.type
    if kind not in measure.gate:
        yield _unfit((*at, "metric"), gate.metric, kind, [m for m in over_rows(kind) if kind in m.gate])


def _promotion(pipeline: Pipeline) -> Iterator[Problem]:
    promotion, kind = pipeline.promotion, pipeline.target.type
    for key in ("metric", "max_drop"):
        if promotion.compare == "none" and key in promotion.model_fields_set:
            yield Problem(("promotion", key), f"`{key}` means nothing with `compare: none`; leave it out")
    if promotion.compare == "none" or "promotion" not in pipeline.model_fields_set:
        return
    if kind not in MEASURES[promotion.metric].promotion:
        fitting = [measure for measure in over_rows(kind) if kind in measure.promotion]
        yield _unfit(("promotion", "metric"), promotion.metric, kind, fitting)


def _serving(pipeline: Pipeline) -> Iterator[Problem]:
    if pipeline.serving.batch.max_delay > LONGEST_DELAY:
        yield Problem(
            ("serving", "batch", "max_delay"),
            f"each prediction may wait so long for others; at most {LONGEST_DELAY.seconds}s",
        )
    if not pipeline.serving.record_retention:
        yield Problem(
            ("serving", "record_retention"), "no record would be kept; write for how long, as in 90d"
        )


def _unfit(at: Path, metric: str, kind: Task, fitting: Iterable[Measure]) -> Problem:
    names = ", ".join(measure.name for measure in fitting)
    return Problem(at, f"`{metric}` does not fit a {kind} target; use {names}")
