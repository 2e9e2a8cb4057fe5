"""A target's raw values as labels: numbers, or class indices. Pure. Says what to change when no
model can be trained on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from penstock.contracts.errors import Conflict, Invalid
from penstock.contracts.pipeline import Pipeline, text_of


class Labels(NamedTuple):
    """float64 and no classes for a regression, else int64 indices into `classes`."""

    values: pa.Array
    classes: tuple[str, ...]
    # Binary, more than one value besides the positive: rows by each that counts as the negative class
    merged: Mapping[str, int] = MappingProxyType({})


def labels_of(pipeline: Pipeline, raw: pa.ChunkedArray) -> Labels:
    """`raw`: one value a row, none missing.

    Raises Conflict where the values cannot make a model, Invalid where the target does not fit them.
    """
    target, name = pipeline.target, next(iter(pipeline.targets))
    kind = pipeline.field(target.source_field).type
    where = f"targets.{name}"
    if target.type == "regression":
        if kind != "number":
            raise Invalid(
                f"a regression needs numbers, {target.source_field} is a {kind}",
                where=where,
                remedy="Use binary or multiclass",
            )
        values = raw.combine_chunks().cast(pa.float64())
        if len(set(values.to_pylist())) < 2:
            raise Conflict(
                f"all {len(values):,} labels are {values[0].as_py():g}",
                where=where,
                remedy="Publish labels that differ",
            )
        return Labels(values, ())
    encoded = raw.combine_chunks().dictionary_encode()
    texts, codes = [text_of(value) for value in encoded.dictionary.to_pylist()], encoded.indices.to_numpy()
    seen: Counter[str] = Counter()
    for text, count in zip(texts, np.bincount(codes, minlength=len(texts)).tolist(), strict=True):
        seen[text] += count
    if target.type == "binary":
        negative, positive = _binary(pipeline, seen, where)
        others = {text: count for text, count in seen.most_common() if text != positive}
        indices = np.array([int(text == positive) for text in texts])
        return Labels(
            pa.array(indices[codes], pa.int64()), (negative, positive), others if len(others) > 1 else {}
        )
    if len(seen) < 2:
        raise Conflict(
            f"all {len(codes):,} labels are `{texts[0]}`",
            where=where,
            remedy="Publish events of at least one other class",
        )
    declared = pipeline.field(target.source_field).values
    classes = tuple(value for value in declared if value in seen) if declared else tuple(sorted(seen))
    index = {value: number for number, value in enumerate(classes)}
    return Labels(pa.array(np.array([index[text] for text in texts])[codes], pa.int64()), classes)


def _binary(pipeline: Pipeline, seen: Counter[str], where: str) -> tuple[str, str]:
    """(negative, positive)"""
    positive = text_of(True if pipeline.target.positive is None else pipeline.target.positive)
    others = sorted(set(seen) - {positive})
    rows = sum(seen.values())
    found = ", ".join(f"`{text}` {count:,}" for text, count in seen.most_common(5))
    if not others:
        raise Conflict(
            f"all {rows:,} labels are `{positive}`",
            where=where,
            remedy="Publish events of the other class too",
        )
    if positive not in seen:
        raise Conflict(
            f"none of {rows:,} labels is `{positive}` (found: {found})",
            where=f"{where}.positive",
            remedy="Correct `positive`, or publish events of that class",
        )
    return (others[0] if len(others) == 1 else f"not {positive}"), positive
