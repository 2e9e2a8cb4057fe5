"""Rules for fields that enter the model: references that must exist, treatments that fit their field."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from penstock.contracts.pipeline import (
    ByField,
    FamilySpec,
    Feature,
    Number,
    Pipeline,
    SourceField,
    TextCnn,
)
from penstock.contracts.pipeline.features import encoding, fitting
from penstock.contracts.pipeline.variants import Path, own_fields
from penstock.contracts.rules.model import model
from penstock.contracts.rules.problem import Problem, failing, unknown_reference

MAX_COLUMNS = 131_072
_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?)")


def features(pipeline: Pipeline) -> Iterator[Problem]:
    found = [*(_declared(pipeline) if pipeline.features else _default(pipeline))]
    if not found:
        yield from dict.fromkeys(each for member in pipeline.members() for each in _family(member))
        yield from model(pipeline)
    yield from found


def _declared(pipeline: Pipeline) -> Iterator[Problem]:
    for name, feature in pipeline.features.items():
        at: Path = ("features", name)
        if missing := unknown_reference(pipeline, feature.source_field):
            yield Problem((*at, "from"), missing)
            continue
        if feature.source_field == pipeline.target.source_field:
            yield Problem((*at, "from"), f"`{feature.source_field}` is the target; a model must not see it")
        yield from _treatment(at, feature, pipeline.field(feature.source_field), pipeline.model)


def _default(pipeline: Pipeline) -> Iterator[Problem]:
    names = Counter(reference.partition(".")[2] for reference in pipeline.default_features())
    return failing(
        (
            not names,
            ("sources",),
            "no field is left for the model: each is protected, personal or the target; name `features`",
        ),
        *(
            (
                count > 1,
                ("sources",),
                f"more than one source has a field `{name}`; name `features`, or rename one",
            )
            for name, count in sorted(names.items())
        ),
    )


def _family(pipeline: Pipeline) -> Iterator[Problem]:
    """Treatments that the model's family does not go by."""
    family, taken = pipeline.model, pipeline.model.treatments
    for name, feature in pipeline.resolved_features().items():
        at: Path = ("features", name)
        if not isinstance(feature, Number):
            others = fitting(pipeline.field(feature.source_field), taken)
            instead = " or ".join(f"`{encoding(other)}`" for other in others)
            told = f"`{family.type}` takes no `{feature.encode}`; leave the feature out"
            yield from failing(
                (feature.encode not in taken, at, f"{told}{f', or use {instead}' if instead else ''}")
            )
            continue
        for key in sorted({"impute", "clip", "scale"} - taken):
            if getattr(pipeline.features.get(name), key, None) is not None:
                told = f"`{family.type}` takes numbers as they are; leave `{key}` out"
                yield Problem((*at, key), told)


def _treatment(at: Path, feature: Feature, field: SourceField, family: FamilySpec) -> Iterator[Problem]:
    taken = fitting(field, family.treatments) or fitting(field)
    keys = sorted(own_fields(taken[0]).keys() - {"from"})
    said = {key for key in feature.model_fields_set - {"source_field"} if getattr(feature, key) is not None}
    use = ", ".join(f"`{key}`" for key in keys)
    if isinstance(feature, ByField) or field.type == "number":
        wrong = sorted(said - set(keys)) if isinstance(feature, ByField) else ["encode"]
        for key in wrong:
            yield Problem((*at, key), f"`{key}` does not fit a {field.type} field; use {use}")
    elif type(feature) not in fitting(field):
        named = " or ".join(f"`{encoding(model)}`" for model in taken)
        yield Problem((*at, "encode"), f"a {field.type} field takes {named}")
    if isinstance(feature, TextCnn) and feature.pool == "flatten":
        widest = max(feature.widths)
        yield from failing(
            (
                widest > feature.words,
                (*at, "widths"),
                f"a filter over {widest} words does not fit into `words: {feature.words}`",
            ),
            (
                feature.columns > MAX_COLUMNS,
                (*at, "pool"),
                f"`flatten` makes {feature.columns:,} columns of this text, at most {MAX_COLUMNS:,} may be;"
                " lower `words` or `filters`, or use `max`",
            ),
        )
    if isinstance(feature, Number):
        try:
            clip_bounds(feature)
        except ValueError as error:
            yield Problem((*at, "clip"), str(error))


def clip_bounds(feature: Number) -> tuple[tuple[bool, float], tuple[bool, float]] | None:
    """Bounds, both as (is a percentile, number). Raises ValueError."""
    if feature.clip is None:
        return None
    low, high = (_clip_bound(bound) for bound in feature.clip)
    if low[0] == high[0] and low[1] >= high[1]:
        raise ValueError("the lower bound must be below the upper one")
    return low, high


def _clip_bound(bound: str | float) -> tuple[bool, float]:
    if not isinstance(bound, str):
        return False, float(bound)
    if found := _PERCENTILE.fullmatch(bound):
        return True, float(found[1])
    raise ValueError(f"`{bound}` is neither a number nor a percentile like p01")
