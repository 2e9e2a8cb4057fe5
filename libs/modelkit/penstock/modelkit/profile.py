"""The reference profile: what the training split looked like, field by field, and probe rows drawn from it.

A probe's values are drawn field by field, each by itself, so that no row of the training set is
repeated but by chance. A value that fewer than MIN_ROWS rows share is not shown: it counts under
`other`.
"""

from __future__ import annotations

import numpy as np

from penstock.contracts.pipeline import Pipeline
from penstock.modelkit.graph import Array
from penstock.modelkit.preprocessing import Preprocessing, Text
from penstock.modelkit.rows import Rows
from penstock.packages.parts import NumberProfile, Probes, StringProfile

BINS = 20
MIN_ROWS = 5
MAX_VALUES = 100
PROBES = 32


def describe(
    pipeline: Pipeline, fitted: Preprocessing, rows: Rows
) -> dict[str, NumberProfile | StringProfile]:
    """Describes each feature, in the signature's order. `rows`: the training split."""
    features = pipeline.resolved_features()
    inputs = fitted.signature.inputs
    found: dict[str, NumberProfile | StringProfile] = {}
    for index, name in enumerate(inputs.numbers):
        personal = pipeline.field(features[name].source_field).personal
        found[name] = _number(rows.numbers[:, index], extremes=not personal)
    for index, name in enumerate(inputs.strings):
        text = isinstance(fitted.strings[index], Text)
        found[name] = _string(rows.strings[:, index], listed=not text)
    return found


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
    values, counts = np.unique(column.astype(str), return_counts=True)
    seen = {str(value): int(count) for value, count in zip(values, counts, strict=True)}
    missing = seen.pop("", 0)
    frequent = sorted(
        (value for value, count in seen.items() if count >= MIN_ROWS), key=lambda value: (-seen[value], value)
    )
    kept = {value: seen[value] for value in frequent[:MAX_VALUES]} if listed else {}
    return StringProfile(
        rows=len(column), missing=missing, values=kept, other=sum(seen.values()) - sum(kept.values())
    )


def draw_probes(
    described: dict[str, NumberProfile | StringProfile], fitted: Preprocessing, seed: int
) -> Rows:
    """PROBES rows; the last two are a row without any value and a row of unknown words."""
    random = np.random.default_rng(seed)
    inputs = fitted.signature.inputs
    numbers = np.full((PROBES, len(inputs.numbers)), np.nan)
    strings = np.full((PROBES, len(inputs.strings)), "", dtype=object)
    drawn = PROBES - 2
    for index, name in enumerate(inputs.numbers):
        profile = described[name]
        assert isinstance(profile, NumberProfile)
        edges = np.asarray(profile.edges)
        values = np.interp(random.uniform(0, max(1, len(edges) - 1), drawn), np.arange(len(edges)), edges)
        values = np.round(values) if np.all(edges == np.round(edges)) else values
        numbers[:drawn, index] = np.where(
            random.random(drawn) < profile.missing / profile.rows, np.nan, values
        )
        numbers[-1, index] = float(edges[-1])
    for index, part in enumerate(fitted.strings):
        profile = described[inputs.strings[index]]
        assert isinstance(profile, StringProfile)
        if isinstance(part, Text):
            shared = [
                (word, rows) for word, rows in zip(part.words, part.rows, strict=True) if rows >= MIN_ROWS
            ]
            choices = [" ".join(_pick(random, shared, int(random.integers(1, 9)))) for _ in range(drawn)]
        else:
            choices = _pick(random, list(profile.values.items()), drawn)
        absent = random.random(drawn) < profile.missing / profile.rows
        strings[:drawn, index] = np.where(absent, "", np.array(choices, dtype=object))
        strings[-1, index] = "never seen before"
    return Rows(numbers, strings, np.zeros(PROBES), {})


def _pick(random: np.random.Generator, weighted: list[tuple[str, int]], count: int) -> list[str]:
    if not weighted:
        return [""] * count
    weights = np.array([weight for _, weight in weighted], dtype=np.float64)
    return [
        weighted[index][0] for index in random.choice(len(weighted), size=count, p=weights / weights.sum())
    ]


def probes(rows: Rows, answers: dict[str, Array], fitted: Preprocessing, tolerance: float) -> Probes:
    inputs = fitted.signature.inputs
    return Probes(
        numbers=tuple(
            tuple(None if np.isnan(value) else float(value) for value in row) for row in rows.numbers
        )
        if inputs.numbers
        else (),
        strings=tuple(tuple(str(value) for value in row) for row in rows.strings) if inputs.strings else (),
        outputs={name: tuple(tuple(row) for row in values.tolist()) for name, values in answers.items()},
        tolerance=tolerance,
    )
