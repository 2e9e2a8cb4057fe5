"""Groups of rows by a field of `audit.groups`, for what is fair between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Pipeline
from penstock.modelkit.graph import Array
from penstock.modelkit.rows import Rows


def groups_of(pipeline: Pipeline, by: str, train: Rows, validation: Rows) -> tuple[int, Array, Array]:
    """Returns the number of groups in the training split, and each row's group, int64 [N]: -1 where
    missing or not seen in training.

    Raises Invalid where there is nothing to compare.
    """
    where = "trainer.fairness.by"
    if by not in train.groups:
        raise Invalid(
            f"the training set carries no group `{by}`", where=where, remedy=f"List `{by}` under audit.groups"
        )
    names = _names(pipeline, by, train)
    known = sorted({name for name in names if name is not None})
    if len(known) < 2:
        raise Invalid(
            f"all training rows are in one group of `{by}`"
            if known
            else f"`{by}` is missing in all training rows",
            where=where,
            remedy="Leave the constraint out, or publish events of more than one group",
        )
    index = {name: position for position, name in enumerate(known)}

    def assign(names: Sequence[str | None]) -> Array:
        return np.array([-1 if name is None else index.get(name, -1) for name in names], dtype=np.int64)

    return len(known), assign(names), assign(_names(pipeline, by, validation))


def _names(pipeline: Pipeline, by: str, rows: Rows) -> list[str | None]:
    """A number's group is its bin in `audit.groups`."""
    group = pipeline.audit.groups.get(by)
    edges = np.asarray(group.bins or ()) if group else np.empty(0)
    named: list[str | None] = []
    for value in rows.groups[by].tolist():
        if value is None or value == "" or value != value:
            named.append(None)
        elif isinstance(value, float):
            named.append(f"{np.searchsorted(edges, value, side='right'):03d}")
        else:
            named.append(str(value))
    return named
