"""Fields that a training set is made of: features, the raw groups that an audit and a fairness
constraint need, and the rows' weight. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Pipeline
from penstock_feature_store import names


class Columns(NamedTuple):
    """References to read from the sources, `source.field`, by a feature's name or a group's field."""

    features: Mapping[str, str]
    groups: Mapping[str, str]
    weight: str | None = None

    @property
    def references(self) -> list[str]:
        weight = [self.weight] if self.weight else []
        return list(dict.fromkeys([*self.features.values(), *self.groups.values(), *weight]))


def columns_of(pipeline: Pipeline) -> Columns:
    """Raises Invalid where nothing joins a column to the label."""
    features = {name: feature.source_field for name, feature in pipeline.resolved_features().items()}
    target = source_of(pipeline.target.source_field)
    used = {target, *map(source_of, features.values())}
    sources = [name for name in pipeline.sources if name in used]
    wanted = [
        *(
            name
            for used in sources
            for name, field in pipeline.sources[used].fields.items()
            if field.protected
        ),
        *pipeline.audit.groups,
        *(gate.by for gate in pipeline.audit.gates if gate.by),
    ]
    if pipeline.trainer.fairness:
        wanted.append(pipeline.trainer.fairness.by)
    groups = {name: _reference(pipeline, name, sources) for name in wanted}
    columns = Columns(features, groups, pipeline.training.sample_weight)
    entity = pipeline.sources[target].entity
    for reference in columns.references:
        other = pipeline.sources[source_of(reference)].entity
        if other != entity:
            raise Invalid(
                f"{reference} is about `{other}`, the label {pipeline.target.source_field} about `{entity}`:"
                " nothing joins them",
                where="features",
                remedy="Use fields of sources with the label's entity",
            )
    if pipeline.split and pipeline.split.by not in ("time", entity):
        raise Invalid(
            f"rows are about `{entity}`, not `{pipeline.split.by}`",
            where="split.by",
            remedy=f"Write `by: {entity}` or `by: time`",
        )
    return columns


def source_of(reference: str) -> str:
    return reference.partition(".")[0]


def place_of(reference: str) -> tuple[str, str]:
    """(source, column in the lake and in Feast)"""
    source, _, field = reference.partition(".")
    return source, names.column_of(field)


def _reference(pipeline: Pipeline, field: str, sources: Sequence[str]) -> str:
    for source in [*sources, *pipeline.sources]:
        if field in pipeline.sources[source].fields:
            return f"{source}.{field}"
    raise Invalid(
        f"no source has a field `{field}`", where=f"audit.groups.{field}", remedy="Name a declared field"
    )
