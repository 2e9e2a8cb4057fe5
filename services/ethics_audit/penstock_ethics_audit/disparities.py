"""Groups compared by their rates: what each measure between groups asks for, and what it gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from penstock.contracts.events import Interval
from penstock.contracts.measures import between_groups
from penstock.measures import fairness
from penstock.measures.fairness import Rates
from penstock.measures.groups import Grouping, asked_cells
from penstock.measures.intervals import Bootstrap, disparity, percentile
from penstock.measures.parity import fair_bounds, shared
from penstock.measures.scores import Codes, Floats, Scores

Said = tuple[str, str, Interval | None]
"""A rate's name, the class that it is about, its interval."""


@dataclass(frozen=True)
class Compared:
    rates: Sequence[tuple[Said, ...]]  # of each group
    disparities: Mapping[str, Interval | None] = field(default_factory=dict)
    # Between the groups alone that have enough rows for the measure, where some have not.
    proven: Mapping[str, Interval | None] = field(default_factory=dict)
    thin: tuple[str, ...] = ()  # measures that not all groups have enough rows for
    # Bounds that audits of a perfectly fair model show in these cells, rising
    fair: Mapping[str, Floats] = field(default_factory=dict)


def compare(scores: Scores, grouping: Grouping, min_rows: int, bootstrap: Bootstrap) -> Compared:
    """Measures the rates of each group, and how far they lie apart. Selection rates are drawn within
    groups, true and false positive rates within cells: each is conditioned on what is kept.
    """
    cells = grouping.cells(scores.label_codes, len(scores.classes))
    rows = shared(cells, scores.of_interest)
    estimated = fairness.rates(scores, grouping.codes)(np.ones((1, len(scores))))
    drawn = _drawn(scores, grouping, bootstrap, estimated, rows)
    worth = _worth(estimated, drawn, rows, bootstrap)
    disparities: dict[str, Interval | None] = {}
    proven: dict[str, Interval | None] = {}
    thin, fair = [], {}
    by_chance = bootstrap.fair(rows, _common(estimated, rows))
    for notion in between_groups(scores.task):
        name = notion.name
        disparities[name] = disparity(name, estimated, drawn, worth, bootstrap.confidence)
        bounds = fair_bounds(name, by_chance, bootstrap.confidence) if by_chance is not None else None
        if bounds is not None:
            fair[name] = bounds
        least = [_least(name, group, scores.classes) for group in cells]
        enough = np.flatnonzero(np.array(least) >= min_rows)
        if len(enough) == len(cells):
            continue
        thin.append(name)
        if len(enough) > 1:
            of, draws, independent = (rates.among(enough) for rates in (estimated, drawn, worth))
            proven[name] = disparity(name, of, draws, independent, bootstrap.confidence)
    said = [
        tuple(_said(scores, group, estimated, drawn, rows, bootstrap))
        for group in range(len(grouping.groups))
    ]
    return Compared(said, disparities, proven, tuple(thin), fair)


def _least(name: str, cells: Codes, classes: Sequence[str]) -> int:
    by_label = dict(zip(classes, cells.tolist(), strict=True))
    return min(asked_cells(name, int(cells.sum()), by_label).values())


def _worth(estimated: Rates, drawn: Rates, rows: Rates, bootstrap: Bootstrap) -> Rates:
    """[1, groups, classes of interest]: the independent rows that each rate is a share of."""
    of_each = ((getattr(one, of) for one in (estimated, drawn, rows)) for of in fairness.RATES)
    return Rates(*(bootstrap.independent(*of) for of in of_each))


def _common(estimated: Rates, rows: Rates) -> Rates:
    """[1, 1, classes]: the rates of all groups together."""

    def pooled(rate: Floats, of: Floats) -> Floats:
        hits, total = (
            (one * of).sum(axis=1, keepdims=True) for one in (np.nan_to_num(rate), np.ones_like(of))
        )
        common: Floats = hits / np.maximum(total, 1)
        return common

    return Rates(*(pooled(getattr(estimated, of), getattr(rows, of)) for of in fairness.RATES))


def _drawn(scores: Scores, grouping: Grouping, bootstrap: Bootstrap, estimated: Rates, rows: Rates) -> Rates:
    tally = fairness.tally(scores, grouping.codes)
    within_group, within_cell = (bootstrap.rates(tally, kept) for kept in (1, 2))

    def few(name: str, rate: fairness.Rate) -> Floats:
        draws = getattr(within_group if rate.among == "all" else within_cell, name)
        of = getattr(rows, name)[0]
        return bootstrap.few(draws, np.nan_to_num(getattr(estimated, name)[0]) * of, of)

    return Rates(**{name: few(name, rate) for name, rate in fairness.RATES.items()})


def _said(
    scores: Scores, group: int, estimated: Rates, drawn: Rates, rows: Rates, bootstrap: Bootstrap
) -> list[Said]:
    found = []
    for i, c in enumerate(scores.of_interest):
        for of in (name for name, rate in fairness.RATES.items() if rate.title):
            rate, among = (float(getattr(one, of)[0, group, i]) for one in (estimated, rows))
            resampled = percentile(getattr(drawn, of)[:, group, i], rate, bootstrap.confidence)
            hits = 0.0 if np.isnan(rate) else rate * among
            found.append((of, scores.classes[c], bootstrap.share(hits, among, resampled)))
    return found
