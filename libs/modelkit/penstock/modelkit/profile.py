"""The reference profile: what the training split looked like, field by field, and probe rows drawn from it.

A probe's values are drawn field by field, each by itself, so that no row of the training set is
repeated but by chance. A value that fewer than MIN_ROWS rows share is not shown: it counts under
`other`.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from penstock.contracts.pipeline import Pipeline
from penstock.modelkit.graph import Array
from penstock.modelkit.preprocessing import Category, Preprocessing, frequent
from penstock.modelkit.rows import Rows
from penstock.packages.parts import NumberProfile, Probes, StringProfile

BINS = 20
MIN_ROWS = 5
MAX_VALUES = 100
PROBES = 32  # rows


def describe(
    pipeline: Pipeline, fitted: Preprocessing, rows: Rows
) -> tuple[dict[str, NumberProfile], dict[str, StringProfile]]:
    """Describes each feature of both tensors, in the signature's order. `rows`: the training split."""
    sources = {name: feature.source_field for name, feature in pipeline.resolved_features().items()}
    numbers = {
        part.name: _number(column, extremes=not pipeline.field(sources[part.name]).personal)
        for part, column in zip(fitted.numbers, rows.numbers.T, strict=True)
    }
    strings = {
        part.name: _string(column, listed=isinstance(part, Category))
        for part, column in zip(fitted.strings, rows.strings.T, strict=True)
    }
    return numbers, strings


def _number(column: Array, *, extremes: bool) -> NumberProfile:
    present = column[np.isfinite(column)]
    edges = np.unique(np.quantile(present, np.linspace(0, 1, BINS + 1)[1:-1]))
    return NumberProfile(
        rows=len(column),
        missing=len(column) - len(present),
        mean=float(present.mean()),
        standard_deviation=float(present.std()),
        minimum=float(present.min()) if extremes else None,
        maximum=float(present.max()) if extremes else None,
        edges=tuple(edges.tolist()),
        counts=tuple(
            np.bincount(np.searchsorted(edges, present, side="right"), minlength=len(edges) + 1).tolist()
        ),
    )


def _string(column: Array, *, listed: bool) -> StringProfile:
    seen = Counter(column.tolist())
    missing = seen.pop("", 0)
    kept = {value: seen[value] for value in frequent(seen, MIN_ROWS)[:MAX_VALUES]} if listed else {}
    return StringProfile(
        rows=len(column), missing=missing, values=kept, other=seen.total() - sum(kept.values())
    )


def draw_probes(
    numbers: dict[str, NumberProfile], strings: dict[str, StringProfile], fitted: Preprocessing, seed: int
) -> Rows:
    """PROBES rows; the last two are a row without any value and a row of unknown words."""
    random = np.random.default_rng(seed)
    matrix = np.full((PROBES, len(numbers)), np.nan)
    texts = np.full((PROBES, len(strings)), "", dtype=object)
    drawn = PROBES - 2
    for index, number in enumerate(numbers.values()):
        edges = np.asarray(number.edges)
        values = np.interp(random.uniform(0, max(1, len(edges) - 1), drawn), np.arange(len(edges)), edges)
        values = np.round(values) if np.all(edges == np.round(edges)) else values
        matrix[:drawn, index] = np.where(random.random(drawn) < number.missing / number.rows, np.nan, values)
        matrix[-1, index] = float(edges[-1])
    for index, part in enumerate(fitted.strings):
        profile = strings[part.name]
        if not isinstance(part, Category):
            shared = [
                (word, rows) for word, rows in zip(part.words, part.rows, strict=True) if rows >= MIN_ROWS
            ]
            choices = [" ".join(_pick(random, shared, int(random.integers(1, 9)))) for _ in range(drawn)]
        else:
            choices = _pick(random, list(profile.values.items()), drawn)
        absent = random.random(drawn) < profile.missing / profile.rows
        texts[:drawn, index] = np.where(absent, "", np.array(choices, dtype=object))
        texts[-1, index] = "never seen before"
    return Rows(matrix, texts, np.zeros(PROBES), {})


def _pick(random: np.random.Generator, weighted: list[tuple[str, int]], count: int) -> list[str]:
    if not weighted:
        return [""] * count
    weights = np.array([weight for _, weight in weighted], dtype=np.float64)
    return [
        weighted[index][0] for index in random.choice(len(weighted), size=count, p=weights / weights.sum())
    ]


def probes(rows: Rows, answers: dict[str, Array], fitted: Preprocessing, tolerance: float) -> Probes:
    return Probes(
        numbers=tuple(
            tuple(None if np.isnan(value) else float(value) for value in row) for row in rows.numbers
        )
        if fitted.numbers
        else (),
        strings=tuple(tuple(str(value) for value in row) for row in rows.strings) if fitted.strings else (),
        outputs={name: tuple(tuple(row) for row in values.tolist()) for name, values in answers.items()},
        tolerance=tolerance,
    )
