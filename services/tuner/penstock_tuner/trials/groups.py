"""Differences between groups on a validation split, for an objective that weighs fairness."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from penstock.contracts.measures import between_groups
from penstock.contracts.pipeline import Pipeline
from penstock.measures.fairness import CONTRASTS, extreme, rates
from penstock.measures.scores import Codes, Scores
from penstock.modelkit.rows import group_of

MIN_CELL = 5  # rows of a group with one label, below which the group is left out


def differences(
    pipeline: Pipeline, scores: Scores, groups: Mapping[str, Iterable[Any]]
) -> Iterator[tuple[str, float]]:
    """Measures between the groups of each field of `audit.groups`, as `MEASURE.FIELD`.

    `groups`: by field, a raw value [N] for each row. Groups with a cell of fewer than MIN_CELL rows
    are left out; nothing is said of a field with fewer than two others, or of a regression.
    """
    if not scores.classifies:
        return
    for field, group in pipeline.audit.groups.items():
        names = [group_of(value, group) for value in groups.get(field, ())]
        codes = _compared(names, scores)
        if codes.max(initial=-1) < 1:
            continue
        found = rates(scores, codes)(np.ones((1, len(scores))))
        for measure in between_groups(scores.task):
            contrasts = CONTRASTS[measure.name](found)
            if not np.isnan(contrasts).any():
                yield f"{measure.name}.{field}", float(extreme(measure.name, contrasts)[0])


def _compared(names: Sequence[str | None], scores: Scores) -> Codes:
    """Codes from 0 of the groups that have enough rows, [N]; -1 elsewhere."""
    codes = np.full(len(names), -1, np.int64)
    classes = scores.said.shape[1]
    compared = 0
    for name in sorted({name for name in names if name is not None}):
        members = np.array([other == name for other in names])
        if np.bincount(scores.label_codes[members], minlength=classes).min() >= MIN_CELL:
            codes[members] = compared
            compared += 1
    return codes
