"""Rules that no single key of a pipeline file can state: references that must exist, options that fit their
field, gates that make sense.

Pure: a pipeline in, problems out, each at the path of the key that is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

from penstock.contracts.measures import MEASURES, Measure, Task, over_rows
from penstock.contracts.pipeline import Gate, Group, Pipeline, Scalar, SourceField, Target
from penstock.contracts.pipeline.variants import Path, unused
from penstock.contracts.rules.doubts import doubts
from penstock.contracts.rules.edge import edge
from penstock.contracts.rules.features import clip_bounds, features
from penstock.contracts.rules.problem import Problem, failing, nearest, unknown_key, unknown_reference
from penstock.contracts.rules.sources import sources
from penstock.contracts.rules.training import training
from penstock.contracts.rules.tuner import search_space, tuner

__all__ = [
    "Path",
    "Problem",
    "clip_bounds",
    "doubts",
    "nearest",
    "problems",
    "search_space",
    "unknown_key",
]

_RESERVED = frozenset({"stats"})  # `/v2/models/stats` is Triton's own
_LONGEST_DELAY = timedelta(seconds=10)


def problems(pipeline: Pipeline) -> list[Problem]:
    """Finds all problems, in the file's order of sections, after keys that mean nothing where they
    stand: those of another type than the one that was chosen, which a stored pipeline may hold.
    """
    return [
        *(Problem(place.path, unknown_key(place)) for place in unused(pipeline)),
        *failing(
            (
                pipeline.pipeline in _RESERVED,
                ("pipeline",),
                f"`{pipeline.pipeline}` is reserved; choose another name",
            )
        ),
        *sources(pipeline),
        *features(pipeline),
        *_target(pipeline),
        *training(pipeline),
        *tuner(pipeline),
        *_decision(pipeline),
        *(found for name, group in pipeline.audit.groups.items() for found in _group(pipeline, name, group)),
        *(found for index, gate in enumerate(pipeline.audit.gates) for found in _gate(pipeline, index, gate)),
        *_promotion(pipeline),
        *_serving(pipeline),
        *edge(pipeline),
    ]


_REMEDIES = {
    "boolean": "write `true` or `false`, without quotes",
    "number": "write a number without quotes, as in `positive: 1`",
}


def _target(pipeline: Pipeline) -> Iterator[Problem]:
    name, target = next(iter(pipeline.targets.items()))
    at: Path = ("targets", name)
    if missing := unknown_reference(pipeline, target.source_field):
        yield Problem((*at, "from"), missing)
        return
    field = pipeline.field(target.source_field)
    fitting = {
        "binary": ("boolean", "category", "number"),
        "multiclass": ("category",),
        "regression": ("number",),
    }[target.type]
    yield from failing(
        (
            field.type not in fitting,
            (*at, "type"),
            f"a {target.type} target needs a {' or '.join(fitting)} field;"
            f" `{target.source_field}` is {field.type}",
        ),
        (
            target.type == "binary" and target.positive is None and field.type != "boolean",
            at,
            f"say which value of `{target.source_field}` counts as 1: `positive: …`",
        ),
    )
    for key, said in (("positive", target.positive), ("favourable", target.favourable)):
        if said is not None:
            yield from _value(target, field, (*at, key), said)


def _value(target: Target, field: SourceField, at: Path, said: Scalar) -> Iterator[Problem]:
    """Problems of a key that names one of the target's two values."""
    number = isinstance(said, int | float) and not isinstance(said, bool)
    may_equal = {"boolean": isinstance(said, bool), "number": number}.get(field.type, True)
    binary = target.type == "binary"
    return failing(
        (not binary, at, f"`{at[-1]}` is for binary targets"),
        (
            binary and not may_equal,
            at,
            f"`{said}` never equals a value of `{target.source_field}`, which is {field.type};"
            f" {_REMEDIES.get(field.type, 'write one of its values')}",
        ),
        (
            binary and field.values and str(said) not in field.values,
            at,
            f"`{said}` is no value of `{target.source_field}`{nearest(str(said), field.values or ())}",
        ),
    )


def _decision(pipeline: Pipeline) -> Iterator[Problem]:
    threshold, abstain = pipeline.decision.threshold, pipeline.decision.abstain
    at: Path = ("decision", "threshold")
    fixed = threshold.choose == "fixed"
    return failing(
        (
            (threshold.choose in ("fixed", "rate")) != (threshold.value is not None),
            at,
            f"`choose: {'rate' if threshold.choose == 'rate' else 'fixed'}` and `value` go together",
        ),
        (
            fixed and "on" in threshold.model_fields_set,
            (*at, "on"),
            "a fixed threshold is chosen on no split; leave `on` out",
        ),
        (
            abstain is not None and not 0 <= abstain[0] < abstain[1] <= 1,
            ("decision", "abstain"),
            "give two probabilities, the lower one first",
        ),
        (
            pipeline.target.type != "binary" and "decision" in pipeline.model_fields_set,
            ("decision",),
            "a threshold and abstaining are for binary targets",
        ),
    )


def _group(pipeline: Pipeline, name: str, group: Group) -> Iterable[Problem]:
    at: Path = ("audit", "groups", name)
    found = [source.fields[name] for source in pipeline.sources.values() if name in source.fields]
    if not found:
        fields = dict.fromkeys(field for source in pipeline.sources.values() for field in source.fields)
        return [Problem(at, f"no source has a field `{name}`{nearest(name, fields)}")]
    if len(found) > 1:
        return [Problem(at, f"more than one source has a field `{name}`; rename one")]
    kind, bins = found[0].type, group.bins
    return failing(
        (kind == "number" and not bins, at, "a number is grouped by `bins`, as in [25, 40, 60]"),
        (kind != "number" and bins, (*at, "bins"), f"`bins` are for numbers; `{name}` is {kind}"),
        (
            kind == "text",
            at,
            "a text field makes no groups; group by a field of another type",
        ),
        (
            bins and list(bins) != sorted(set(bins)),
            (*at, "bins"),
            "the edges must rise, each written once, as in [25, 40, 60]",
        ),
        (
            group.merge and bins,
            (*at, "merge"),
            "`bins` make the groups of a number, `merge` those of a category; leave one of them out",
        ),
        *_merge(at, group, found[0].values),
    )


def _merge(at: Path, group: Group, declared: Sequence[str] | None) -> Iterator[tuple[object, Path, str]]:
    merged = [value for values in group.merge.values() for value in values]
    for name, values in group.merge.items():
        place = (*at, "merge", name)
        yield (not values, place, f"`{name}` merges no values; list them, as in {name}: [a, b]")
        for value in values:
            near = nearest(value, declared or ())
            yield (merged.count(value) > 1, place, f"`{value}` is merged twice")
            yield (declared and value not in declared, place, f"`{value}` is no value of the field{near}")


def _gate(pipeline: Pipeline, index: int, gate: Gate) -> Iterator[Problem]:
    at: Path = ("audit", "gates", index)
    measure, kind, groups = MEASURES[gate.metric], pipeline.target.type, pipeline.audit.groups
    right, wrong, better = (
        ("at_least", "at_most", "higher") if measure.higher_is_better else ("at_most", "at_least", "lower")
    )
    limit, one = getattr(gate, right), (gate.at_least is None) != (gate.at_most is None)
    low, high = measure.range
    return failing(
        (not one, at, f"a gate has one limit; write `{right}` alone"),
        (one and limit is None, (*at, wrong), f"`{gate.metric}` is better when {better}; use `{right}`"),
        (
            limit is not None and not low <= limit <= high,
            (*at, right),
            f"`{gate.metric}` lies {f'from {low:g} to {high:g}' if high < math.inf else 'above 0'}",
        ),
        (
            measure.between_groups and not gate.by,
            at,
            f"`{gate.metric}` compares groups: name them with `by`",
        ),
        (
            measure.between_groups and gate.by and gate.by not in groups,
            (*at, "by"),
            f"`{gate.by}` is no group of `audit.groups`{nearest(gate.by or '', groups)}",
        ),
        (
            gate.by and not measure.between_groups,
            (*at, "by"),
            f"`{gate.metric}` is judged over all rows; leave `by` out",
        ),
        (
            measure.of_intervals and kind in measure.gate and not pipeline.target.quantiles,
            (*at, "metric"),
            f"`{gate.metric}` is about an interval: give the target `quantiles`, as in [0.1, 0.9]",
        ),
        (
            kind not in measure.gate,
            (*at, "metric"),
            _unfit(gate.metric, kind, [fit for fit in over_rows(kind) if kind in fit.gate]),
        ),
    )


def _promotion(pipeline: Pipeline) -> Iterable[Problem]:
    promotion, kind = pipeline.promotion, pipeline.target.type
    if promotion.without_gates and pipeline.audit.gates:
        return [
            Problem(
                ("promotion", "without_gates"),
                "it is for a file without gates, and this one has some; leave it out",
            )
        ]
    if promotion.compare == "none":
        return [
            Problem(("promotion", key), f"`{key}` means nothing with `compare: none`; leave it out")
            for key in ("metric", "max_drop")
            if key in promotion.model_fields_set
        ]
    # Where neither is named, the registry takes the measure that fits the target.
    named = promotion.model_fields_set & {"metric", "max_drop"}
    return failing(
        (
            named and kind not in MEASURES[promotion.metric].promotion,
            ("promotion", "metric"),
            _unfit(promotion.metric, kind, [fit for fit in over_rows(kind) if kind in fit.promotion]),
        )
    )


def _unfit(metric: str, kind: Task, fitting: Iterable[Measure]) -> str:
    return f"`{metric}` does not fit a {kind} target; use {', '.join(measure.name for measure in fitting)}"


def _serving(pipeline: Pipeline) -> Iterator[Problem]:
    return failing(
        (
            pipeline.serving.batch.max_delay > _LONGEST_DELAY,
            ("serving", "batch", "max_delay"),
            f"each prediction may wait so long for others; at most {_LONGEST_DELAY.seconds}s",
        ),
        (
            not pipeline.serving.record_retention,
            ("serving", "record_retention"),
            "no record would be kept; write for how long, as in 90d",
        ),
    )
