"""Intervals and training as pictures: a gate's row of the forest plot, rates and errors by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from penstock.contracts.events import GateResult, Interval
from penstock.measures.groups import called
from penstock.packages.parts import Curves
from penstock_ethics_audit.audit import GroupingFindings
from penstock_ethics_audit.report.drawing import (
    GATE_WIDTH,
    INK,
    MARKERS,
    PASS,
    SERIES,
    SOFT,
    STYLE,
    VERDICT_COLORS,
    WIDTH,
    Picture,
    margins,
    said,
    span,
    svg_of,
    tick,
)


def gate(result: GateResult, name: str) -> Picture | None:
    """A row of the forest plot: the interval, and the side of the limit that is allowed."""
    if result.value is None:
        return None
    value, limit = result.value, result.limit
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(GATE_WIDTH, 0.62))
        axes = figure.add_axes((0.06, 0.42, 0.88, 0.54))
        low, high = span([value.lower, value.upper, limit])
        allowed = (limit, high) if result.bound == "at_least" else (low, limit)
        axes.axvspan(*allowed, color=PASS, alpha=0.13, linewidth=0)
        axes.axvline(limit, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
        _interval(axes, value, 0, color=VERDICT_COLORS[result.verdict], marker="D", width=2.6)
        axes.set(xlim=(low, high), ylim=(-1, 1), yticks=[])
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(labelsize=8, length=2)
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        svg = svg_of(figure, f"gate-{name}")
    return Picture(svg, f"{name}: {said(value)}; allowed is {result.bound.replace('_', ' ')} {limit:g}.")


def rates(found: GroupingFindings, names: dict[str, str], label: str) -> Picture:
    """Selection, true and false positive rate of each group, with intervals."""
    values = {title: [group.rate(of, label) for group in found.groups] for of, title in names.items()}
    highest = max((one.upper for column in values.values() for one in column if one), default=1.0)
    return _by_group(found, values, f"rates-{found.by}-{label}", "Rates", xlim=(-0.015, 1.06 * highest))


def errors(found: GroupingFindings) -> Picture:
    """Mean absolute error and mean error of a regression in each group, with intervals."""
    names = {"mae": "Mean absolute error", "mean_error": "Mean error (said - true)"}
    values = {title: [group.performance.get(of) for group in found.groups] for of, title in names.items()}
    return _by_group(found, values, f"errors-{found.by}", "Errors")


def _by_group(
    found: GroupingFindings,
    columns: dict[str, list[Interval | None]],
    name: str,
    heading: str,
    xlim: tuple[float, float] | None = None,
) -> Picture:
    """Draws a panel for each column and a row for each group; without `xlim` the last panel marks 0."""
    names = [called(found.by, group.group) for group in found.groups]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.75 + 0.36 * len(names)))
        panels = figure.subplots(1, len(columns), sharey=True)
        for axes, (title, values) in zip(panels, columns.items(), strict=True):
            dots(axes, values)
            axes.set(title=title, **({"xlim": xlim} if xlim else {}))
        if xlim is None:
            panels[-1].axvline(0, color=INK, linewidth=0.8)
        panels[0].set_yticks(range(len(names)), names)
        panels[0].set_ylim(len(names) - 0.5, -0.5)
        panels[0].tick_params(axis="y", length=0, labelcolor=INK)
        figure.subplots_adjust(**margins(figure, left=1.5, right=0.15, bottom=0.32, top=0.28), wspace=0.12)
        svg = svg_of(figure, name)
    parts = [
        f"{title}: " + ", ".join(f"{group} {said(one)}" for group, one in zip(names, values, strict=True))
        for title, values in columns.items()
    ]
    return Picture(svg, f"{heading} by {found.by}. " + ". ".join(parts) + ".")


def training(found: Curves) -> Picture | None:
    """Loss and metric by epoch."""
    if not found.points:
        return None
    epochs = [point.epoch for point in found.points]
    best = min(found.points, key=lambda point: point.validation_loss)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.9))
        loss, metric = figure.subplots(1, 2)
        loss.plot(epochs, [point.train_loss for point in found.points], color=SERIES[0], label="training")
        loss.plot(
            epochs,
            [point.validation_loss for point in found.points],
            color=SERIES[1],
            linestyle="--",
            label="validation",
        )
        loss.axvline(best.epoch, color=SOFT, linewidth=0.8, linestyle=(0, (1, 3)))
        loss.set(title="Loss", xlabel="Epoch")
        loss.legend(fontsize=8.5)
        metric.plot(
            epochs, [point.validation_metric for point in found.points], color=SERIES[1], linestyle="--"
        )
        metric.set(title=f"Validation {found.metric}", xlabel="Epoch")
        for axes in (loss, metric):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.subplots_adjust(**margins(figure, left=0.6, right=0.15, bottom=0.5, top=0.3), wspace=0.2)
        svg = svg_of(figure, "training")
    return Picture(
        svg,
        f"Training: {len(epochs)} epochs; training loss ends at {found.points[-1].train_loss:.3f};"
        f" validation loss is lowest in epoch {best.epoch} with {best.validation_loss:.3f}; validation"
        f" {found.metric} there {best.validation_metric:.3f}.",
    )


def dots(axes: Any, values: Sequence[Interval | None], *, one_color: bool = False) -> None:
    """A row for each interval; rows that are groups differ by colour and marker."""
    for row, value in enumerate(values):
        if value is None:
            axes.text(
                0.02,
                row,
                "not defined",
                color=SOFT,
                fontsize=8.5,
                va="center",
                transform=axes.get_yaxis_transform(),
            )
        else:
            kind = 0 if one_color else row
            color, marker = SERIES[kind % len(SERIES)], MARKERS[kind % len(MARKERS)]
            _interval(axes, value, row, color=color, marker=marker, width=1.8)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, prune="upper"))
    axes.xaxis.set_major_formatter(tick)


def _interval(axes: Any, value: Interval, row: int, *, color: str, marker: str, width: float) -> None:
    reach = [[value.estimate - value.lower], [value.upper - value.estimate]]
    axes.errorbar(
        [value.estimate],
        [row],
        xerr=reach,
        color=color,
        marker=marker,
        markersize=5,
        elinewidth=width,
        capsize=4,
        capthick=0.6 * width,
    )
