"""Groups by the raw values of a protected attribute, or by bins of a number."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.contracts.errors import Invalid
from penstock.measures import fairness
from penstock.measures.scores import Codes

NOT_STATED = "(not stated)"
MAX_GROUPS = 50  # number of distinct values above which they are no groups to compare
_MISSING = -1
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


@dataclass(frozen=True)
class Grouping:
    """The rows of the audit split divided by one attribute."""

    by: str
    groups: tuple[str, ...]
    codes: Codes  # [N]: index into `groups`, -1 where the attribute is not stated
    # Rows without the attribute. They are compared as a group of their own when they are
    # enough, see `compare_not_stated`.
    not_stated: int = 0
    # Rows without the attribute take no part in the comparison: they are too few to say
    # anything.
    left_out: bool = False

    def rows(self, group: int) -> Codes:
        return np.flatnonzero(self.codes == group)

    def cells(self, labels: Codes, classes: int) -> NDArray[np.int64]:
        """[groups, classes]: rows in each cell (group x label)."""
        stated = self.codes != _MISSING
        flat = np.bincount(
            self.codes[stated] * classes + labels[stated], minlength=len(self.groups) * classes
        )
        return flat.reshape(len(self.groups), classes)


def divide(
    by: str,
    values: Sequence[str | float | None] | NDArray[np.generic],
    bins: Sequence[float] | None = None,
    merged: Callable[[str], str] = lambda value: value,
) -> Grouping:
    """Divides rows by `values` [N] into groups: one a distinct value, in order, or with `bins` (inner
    edges, [25, 40]) `<25`, `25-40`, `>=40`.

    `merged` gives the group of a value's text. None, NaN and the empty string are not stated. Raises
    Invalid when the values are no groups.
    """
    stated = np.array([not _is_missing(value) for value in values], dtype=bool)
    given = [value for value, there in zip(values, stated, strict=True) if there]
    names, given_codes = _binned(by, given, bins) if bins else _distinct(by, given, merged)
    codes = np.full(len(stated), _MISSING, dtype=np.int64)
    # A bin that no audit row has is no group: it would be an empty cell for ever.
    present, codes[stated] = np.unique(given_codes, return_inverse=True)
    return Grouping(by, tuple(names[code] for code in present), codes, not_stated=int((~stated).sum()))


def _distinct(by: str, values: Sequence[Any], merged: Callable[[str], str]) -> tuple[tuple[str, ...], Codes]:
    """Groups in the order of their values, a merged one where its first value is."""
    distinct = sorted(set(values), key=_order)
    groups = list(dict.fromkeys(merged(_text(value)) for value in distinct))
    if len(groups) > MAX_GROUPS:
        raise Invalid(
            f"{by} has {len(groups)} distinct values, at most {MAX_GROUPS} can be compared as groups",
            where=f"audit.groups.{by}",
            remedy=f"Give `audit.groups.{by}.bins` or `merge`, or a field with fewer values",
        )
    index = {value: groups.index(merged(_text(value))) for value in distinct}
    return _whole(groups), np.array([index[value] for value in values], dtype=np.int64)


def _whole(groups: Sequence[str]) -> tuple[str, ...]:
    """Names without the `.0` that programs give whole numbers of a column with gaps: where all numbers
    have it, so that no two become one.
    """
    numbers = {name for name in groups if _NUMBER.fullmatch(name)}
    if not all(name.endswith(".0") for name in numbers):
        return tuple(groups)
    return tuple(name.removesuffix(".0") if name in numbers else name for name in groups)


def _binned(by: str, values: Sequence[Any], edges: Sequence[float]) -> tuple[tuple[str, ...], Codes]:
    try:
        numbers = np.array([float(value) for value in values], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise Invalid(
            f"{by} has bins but its values are no numbers",
            where=f"audit.groups.{by}.bins",
            remedy="Leave out the bins",
        ) from error
    inner = (f"{low:g}-{high:g}" for low, high in pairwise(edges))
    names = (f"<{edges[0]:g}", *inner, f">={edges[-1]:g}")
    return names, np.searchsorted(np.asarray(edges, dtype=np.float64), numbers, side="right")


def compare_not_stated(grouping: Grouping, labels: Codes, classes: int, min_rows: int) -> Grouping:
    """Adds the rows without the attribute as one more group where each of its cells has `min_rows`;
    else leaves them out.

    A group of its own, because withholding an attribute must not hide how people are treated; left
    out when tiny, because one person who does not say would otherwise make every verdict
    inconclusive. Either way their number is in the report.
    """
    if not grouping.not_stated:
        return grouping
    missing = grouping.codes == _MISSING
    if np.bincount(labels[missing], minlength=classes).min() < min_rows:
        return replace(grouping, left_out=True)
    codes = np.where(missing, len(grouping.groups), grouping.codes)
    return replace(grouping, groups=(*grouping.groups, NOT_STATED), codes=codes)


def called(by: str, value: str) -> str:
    """Words for a value of the column `by`: `black = 1` for a number or a boolean, else the value itself."""
    bare = value in ("true", "false") or _NUMBER.fullmatch(value)
    return f"{by} = {value}" if by and bare else value


def asked_cells(name: str, rows: int, cells: Mapping[str, int]) -> dict[str, int]:
    """Rows by label of the cells of one group that the measure asks for; all its rows, as "", for one
    that asks for no label.
    """
    among = {fairness.RATES[rate].among for rate in fairness.reads(name)}
    labels = list(cells)
    asked = {"": rows} if not labels or "all" in among else {}
    if len(labels) == 2:
        negative, positive = labels
        asked |= {positive: cells[positive]} if "positive" in among else {}
        return asked | ({negative: cells[negative]} if "negative" in among else {})
    return asked | (dict(cells) if among - {"all"} else {})


def _is_missing(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and np.isnan(value))


def _order(value: str | float) -> tuple[int, float, str]:
    return (0, float(value), "") if isinstance(value, (int, float)) else (1, 0.0, str(value))


def _text(value: object) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)
