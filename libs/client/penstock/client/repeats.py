"""Rows of a file whose ids came before with another content: ingest drops them as repeats."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from penstock.client.checks import is_of, stated
from penstock.client.declared import Row
from penstock.client.features import Features
from penstock.contracts.errors import PenstockError
from penstock.contracts.pipeline import Pipeline, Source
from penstock.contracts.pipeline.sources import ROW_IDS
from penstock.feature_store.v1 import feature_store_pb2 as features

_LOOKED_AT = 20  # a call each


@dataclass(frozen=True)
class Changed:
    """Rows that say something else than what the lake holds under their ids."""

    rows: int
    of: int
    """Rows of the file's beginning that were looked at."""
    first: int
    """Number of the first of them, from 1, which differs in `fields`."""
    fields: tuple[str, ...]


def changed(store: Features, pipeline: Pipeline, source: str, first: Sequence[Row | bytes]) -> Changed | None:
    """Compares a file's first rows with what came before under their ids; None where they agree, where
    publishing makes the ids of the content, and where the feature store does not answer.
    """
    declared = pipeline.sources[source]
    if declared.columns.get(declared.id) in ROW_IDS:
        return None
    looked_at = list(enumerate(first[:_LOOKED_AT], 1))
    found: list[tuple[int, tuple[str, ...]]] = []
    with suppress(PenstockError):
        for number, row in looked_at:
            if not isinstance(row, bytes) and (identity := row.get(declared.id)) is not None:
                kept = store.records(pipeline.pipeline, source, id=str(identity))
                differences = [_differing(row, one, declared) for one in kept]
                if differences and all(differences):
                    found.append((number, differences[0]))
    return Changed(len(found), len(looked_at), *found[0]) if found else None


def _differing(row: Row, kept: features.Record, source: Source) -> tuple[str, ...]:
    """Fields of which both have a value, each another one."""
    return tuple(
        name
        for name, field in source.fields.items()
        if (said := stated(row, name, source)) is not None
        and is_of(field, said)
        and (kind := kept.fields[name].WhichOneof("kind"))
        and getattr(kept.fields[name], kind) != said
    )
