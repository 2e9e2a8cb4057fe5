"""Inputs that give a protected column back: one, a pair, or the columns of a one-hot family together.
Needs numpy, the client's `init` extra.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.client.declared import text_of
from penstock.client.guess.decide import Guess
from penstock.client.guess.kinds import FEW
from penstock.client.guess.names import protected as attribute
from penstock.client.guess.table import Column

NEARLY = 0.95
"""R² from which a column is given back: of two groups as large, one row of eighty is in the other."""
_ROWS, _FEWEST = 2_000, 50
_MOST = 12  # columns of a family
_ROWS_OF_ONE = 50  # rows for each step, so that chance gives nothing back
_FEWEST_OF_A_VALUE, _FEWEST_OF_AN_INPUT = 20, 3
_WIDEST = 300
"""Views that are tried together at most: those that say most by themselves."""
_LEAST = 0.005
"""Share of the answer's variance that each step explains: a helper of less is no part of a family."""
_VANISHED = 1e-6  # what rounding leaves of a column of length 1

Array = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Proxy:
    """Inputs that give a protected column back, or one of its values, or several columns together."""

    protected: str
    inputs: tuple[str, ...]
    r2: float
    rows: int

    @property
    def said(self) -> str:
        names = " and ".join(f"`{one}`" for one in self.inputs)
        return f"{names} {'gives' if len(self.inputs) == 1 else 'together give'} {self._back}"

    def of(self, name: str) -> str:
        """The finding as a reason against one of the inputs."""
        others = " and ".join(f"`{one}`" for one in self.inputs if one != name)
        return f"with {others} gives {self._back}" if others else f"gives {self._back}"

    @property
    def _back(self) -> str:
        return f"back {self.protected}, which is protected: R² {self.r2:.3f} on {self.rows:,} rows"


def given_back(guess: Guess) -> dict[str, str]:
    """Reasons, by field, why an input is none: with its figure."""
    inputs = [one.column for one in guess.inputs() if one.type != "text"]
    found = proxies([one.column for one in guess.fields if one.protected], inputs)
    return {name: proxy.of(name) for proxy in found for name in proxy.inputs}


def proxies(protected: Iterable[Column], inputs: Iterable[Column]) -> list[Proxy]:
    """Finds what gives each protected column back; columns hold the same rows, at least _FEWEST. Each
    input is named once.
    """
    views = {column.field: list(_views(_thinned(column))) for column in inputs}
    found = []
    for words, answer in _answers([_thinned(column) for column in protected]):
        known = np.isfinite(answer)
        if known.sum() < _FEWEST:
            continue
        while one := _given_back(answer, views, known):
            found.append(Proxy(words, *one, int(known.sum())))
            views = {name: each for name, each in views.items() if name not in one[0]}
    return found


def _thinned(column: Column) -> Column:
    values = column.values[:: max(1, -(-len(column.values) // _ROWS))]
    return Column(column.name, column.field, values)


def _answers(columns: list[Column]) -> Iterator[tuple[str, Array]]:
    """Protected columns as numbers: each itself, or one for each frequent value; and the flags of one
    attribute together, of whom nobody has two: who has none is in one group, too.
    """
    flags: defaultdict[str, dict[str, Array]] = defaultdict(dict)
    for column in columns:
        if column.numbers is not None and len(column.counts) > FEW:
            yield f"`{column.field}`", _numbers(column)
            continue
        two = len(column.counts) == 2
        for value, view in list(_indicators(column, _FEWEST_OF_A_VALUE))[: 1 if two else None]:
            yield f"`{column.field}`" if two else f"`{column.field}` {value[:30]}", view
        if (why := attribute(column.name)) and set(column.numbers or []) == {0, 1}:
            flags[why][column.field] = _numbers(column)
    for family in flags.values():
        together = np.sum(list(family.values()), axis=0)
        if len(family) > 1 and not (together > 1).any():
            yield " or ".join(f"`{name}`" for name in family), together


def _views(column: Column) -> Iterator[Array]:
    """An input as columns of numbers without a gap: an indicator for each of few values; a number itself
    and, last, its ranks.
    """
    if column.numbers is None or len(column.counts) <= FEW:
        yield from (np.nan_to_num(view) for _, view in _indicators(column, _FEWEST_OF_AN_INPUT))
    if column.numbers is not None and len(column.counts) > 2:
        numbers = _numbers(column)
        numbers[~np.isfinite(numbers)] = np.median(numbers[np.isfinite(numbers)])
        yield numbers
        yield np.unique(numbers, return_inverse=True)[1].astype(np.float64)


def _indicators(column: Column, fewest: int) -> Iterator[tuple[str, Array]]:
    """Frequent values, each with 1 where it stands and NaN where none does."""
    texts = np.array([None if value is None else text_of(value) for value in column.values], dtype=object)
    missing = np.array([text is None for text in texts])
    for value, count in column.counts.most_common(FEW):
        if fewest <= count <= len(column.present) - fewest:
            yield value, np.where(missing, np.nan, (texts == value).astype(np.float64))


def _numbers(column: Column) -> Array:
    """NaN where one is missing."""
    numbers = iter(column.numbers or [])
    return np.array([np.nan if value is None else next(numbers) for value in column.values], dtype=np.float64)


def _given_back(
    answer: Array, views: Mapping[str, list[Array]], known: Mask
) -> tuple[tuple[str, ...], float] | None:
    """Inputs that together explain at least NEARLY of the variance of the answers that are known, and
    how much: by forward selection (Efroymson 1960), each column projected out of the others.
    """
    residual = _unit(answer[known])
    here = {name: [view[known] for view in each] for name, each in views.items()}
    sides = ((name, side) for name, each in here.items() for side in [*each, *_best_cut(each, residual)])
    units = [(name, unit) for name, side in sides if (unit := _unit(side)).any()]
    if not residual.any() or not units:
        return None
    units = sorted(units, key=lambda unit: -abs(unit[1] @ residual))[:_WIDEST]
    names, rest = [name for name, _ in units], np.column_stack([unit for _, unit in units])
    chosen: dict[str, None] = {}
    for _ in range(max(1, len(residual) // _ROWS_OF_ONE)):
        norms = (rest**2).sum(axis=0)
        able = norms > _VANISHED
        gains = np.where(able, (residual @ rest) ** 2 / np.where(able, norms, 1), 0)
        best = int(gains.argmax())
        chosen[names[best]] = None
        if gains[best] < _LEAST or len(chosen) > _MOST:
            return None
        direction = rest[:, best] / np.sqrt(norms[best])
        residual = residual - direction * (direction @ residual)
        rest = rest - np.outer(direction, direction @ rest)
        if (explained := 1 - float(residual @ residual)) >= NEARLY:
            return tuple(chosen), explained
    return None


def _unit(column: Array) -> Array:
    """The column around 0 with a length of 1; zeros for a constant one, and one beyond what squares hold."""
    with np.errstate(all="ignore"):
        centred = column - column.mean()
        norm = float(np.sqrt(centred @ centred))
    if not np.isfinite(norm) or norm <= _VANISHED * np.abs(column).max(initial=0):
        return np.zeros_like(column)
    return np.asarray(centred / norm)


def _best_cut(views: list[Array], centred: Array) -> Iterator[Array]:
    """The side of a number's ranks that says most of the answer."""
    for ranks in views[-1:]:
        order = np.argsort(ranks, kind="stable")
        below, sums = np.arange(1, len(ranks)), np.cumsum(centred[order])[:-1]
        between = np.where(np.diff(ranks[order]) > 0, sums**2 / (below * (len(ranks) - below)), 0)
        yield (ranks > ranks[order][int(between.argmax())]).astype(np.float64)
