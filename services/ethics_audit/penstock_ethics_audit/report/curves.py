"""Curves and histograms by group: ROC, calibration, and the model's answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from penstock.contracts.events import Interval
from penstock.measures.groups import called
from penstock_ethics_audit.report.drawing import (
    MARKERS,
    SERIES,
    SOFT,
    STYLE,
    STYLES,
    WIDTH,
    Picture,
    margins,
    number,
    said,
    span,
    svg_of,
    tick,
)
from penstock_ethics_audit.report.pictures import Curve, Histogram, Pictures


def curves(drawn: Pictures, by: str, *, classifies: bool, areas: dict[str, Interval | None]) -> Picture:
    """ROC (binary) beside calibration, a line a group. `areas`: AUROC by group, for the legend and
    the words.
    """
    roc, calibration = drawn.roc.get(by, ()), drawn.calibration.get(by, ())
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.1) if roc else (4.8, 4.1))
        panels = [figure.add_subplot(1, 2 if roc else 1, index + 1) for index in range(2 if roc else 1)]
        if roc:
            _draw_roc(panels[0], by, roc, areas)
        _draw_calibration(panels[-1], by, calibration, classifies=classifies)
        figure.subplots_adjust(
            **margins(figure, left=0.6 if classifies else 0.85, right=0.15, bottom=0.55, top=0.32), wspace=0.2
        )
        svg = svg_of(figure, f"curves-{by}")
    words = [f"{_named(by, curve.group)}: {_calibrated(curve)}" for curve in calibration if curve.x]
    if roc:
        words = [f"{_named(by, group)}: AUROC {said(area)}" for group, area in areas.items()] + words
    title = f"{'ROC curves and calibration' if roc else 'Calibration'}{f' by {by}' if by else ''}"
    return Picture(svg, f"{title}. {'. '.join(words)}.")


def _draw_roc(axes: Any, by: str, roc: Sequence[Curve], areas: dict[str, Interval | None]) -> None:
    area_of = {group: f"  {area.estimate:.3f}" for group, area in areas.items() if area}
    _lines(axes, roc, {curve.group: _named(by, curve.group) + area_of.get(curve.group, "") for curve in roc})
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=(0, (1, 3)))
    axes.set(
        title="ROC", xlabel="False positive rate", ylabel="True positive rate", xlim=(0, 1), ylim=(0, 1.01)
    )
    axes.legend(loc="lower right", fontsize=8.5)


def _draw_calibration(axes: Any, by: str, calibration: Sequence[Curve], *, classifies: bool) -> None:
    _lines(axes, calibration, {curve.group: _named(by, curve.group) for curve in calibration}, markers=True)
    values = [value for curve in calibration for value in (*curve.x, *curve.y)]
    ends = [0.0, 1.0] if classifies else span(values or [0, 1])
    axes.plot(ends, ends, color=SOFT, linewidth=0.8, linestyle=(0, (1, 3)))
    axes.set(
        title="Calibration",
        xlabel="Said, on average in each tenth of the rows",
        ylabel="Seen",
        xlim=ends,
        ylim=ends,
    )
    axes.legend(loc="upper left", fontsize=8.5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(tick)


def distributions(drawn: Pictures, by: str, xlabel: str) -> Picture | None:
    """Histograms of the model's answers by group and true label: small multiples on one scale."""
    histograms = drawn.distributions.get(by, ())
    groups = list(dict.fromkeys(histogram.group for histogram in histograms))
    if not groups:
        return None
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * max(columns, 1.5) / 3, 0.55 + 1.75 * rows))
        panels = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
        for axes, group in zip(panels, groups, strict=False):
            _draw_histograms(axes, [histogram for histogram in histograms if histogram.group == group])
            axes.set_title(_named(by, group))
        for axes in panels[len(groups) :]:
            axes.set_visible(False)
        for axes in panels[max(0, len(groups) - columns) : len(groups)]:
            axes.set_xlabel(xlabel)
        if any(histogram.label for histogram in histograms):
            panels[0].legend(
                title="True label" if xlabel.startswith("Prob") else None, fontsize=8.5, title_fontsize=8.5
            )
        figure.subplots_adjust(
            **margins(figure, left=0.6, right=0.15, bottom=0.5, top=0.28), wspace=0.12, hspace=0.5
        )
        svg = svg_of(figure, f"distributions-{by}")
    words = [
        f"{_named(by, h.group)}{f', label {h.label}' if h.label else ''}: middle half {_middle(h)}"
        for h in histograms
        if sum(h.shares)
    ]
    return Picture(svg, f"{xlabel}{f' by {by}' if by else ''}. " + "; ".join(words) + ".")


def _draw_histograms(axes: Any, histograms: Sequence[Histogram]) -> None:
    for index, histogram in enumerate(histograms):
        axes.stairs(
            histogram.shares,
            histogram.edges,
            label=f" {histogram.label}" if histogram.label else None,
            color=SERIES[index],
            linestyle=STYLES[index],
            linewidth=1.5,
            fill=False,
        )
        axes.stairs(histogram.shares, histogram.edges, color=SERIES[index], alpha=0.14, fill=True)
    axes.tick_params(labelbottom=True, axis="both", length=0)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(tick)


def _lines(axes: Any, lines: Sequence[Curve], labels: dict[str, str], *, markers: bool = False) -> None:
    for index, curve in enumerate(lines):
        axes.plot(
            curve.x,
            curve.y,
            color=SERIES[index % len(SERIES)],
            linestyle=STYLES[index % len(STYLES)],
            marker=MARKERS[index % len(MARKERS)] if markers else None,
            markersize=4.5,
            label=f" {labels[curve.group]}",  # matplotlib leaves out what begins with `_`
        )


def _named(by: str, group: str) -> str:
    return called(by, group) or "all rows"


def _calibrated(curve: Curve) -> str:
    gap = max(((abs(x - y), x, y) for x, y in zip(curve.x, curve.y, strict=True)), key=lambda found: found[0])
    return f"furthest apart where {number(gap[1])} is said and {number(gap[2])} seen"


def _middle(histogram: Histogram) -> str:
    total = np.cumsum(histogram.shares)
    low, high = (histogram.edges[int(np.searchsorted(total, share * total[-1]))] for share in (0.25, 0.75))
    return f"{number(low)} to {number(high + histogram.edges[1] - histogram.edges[0])}"
