"""Pictures of what the model goes by, from the data that its family put into the package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from penstock.packages.parts import Bars, Explanation, Histogram
from penstock_ethics_audit.importance import Importance
from penstock_ethics_audit.report.drawing import (
    INK,
    SERIES,
    SOFT,
    STYLE,
    STYLES,
    WIDTH,
    Picture,
    margins,
    number,
    said,
    svg_of,
    tick,
)
from penstock_ethics_audit.report.figures import dots

LONGEST_NAME = 28
MAX_FEATURES = 30
GAIN = (
    " Gain: by how much all splits on a feature lowered the loss on the rows that the trees were made"
    " from; a feature with many different values gains by chance, too."
)


def explained(measured: Importance | None, found: Explanation | None) -> list[tuple[str, str, Picture]]:
    """Pictures, each with its title and what it shows."""
    shown = []
    if measured is not None or (found is not None and found.gain):
        shown.append(_importance(measured, found.gain if found is not None else {}))
    for index, picture in enumerate(found.pictures if found is not None else ()):
        name = f"shown-{index}"
        drawn = histogram(picture, name) if isinstance(picture, Histogram) else bars(picture, name)
        shown.append((picture.title, picture.about, drawn))
    return shown


def _importance(measured: Importance | None, gain: Mapping[str, float]) -> tuple[str, str, Picture]:
    """Permutation importance with intervals, and beside it the shares of the gain, where there are some."""
    values = measured.features if measured is not None else {}
    weight = {name: value.estimate if value else -1.0 for name, value in values.items()} or gain
    names = sorted(weight, key=lambda name: -weight[name])[:MAX_FEATURES]
    about, words, panels = [], [], []
    if measured is not None:
        about.append(
            f"By how much the mean {measured.loss} rises on {measured.rows:,} audit rows when a feature's"
            " values go to other rows, with intervals. A feature that others can stand in for looks"
            " unimportant here."
        )
        words.append(", ".join(f"{name} {said(values[name])}" for name in names))
        panels.append(f"Rise of the {measured.loss}, values moved")
    if gain:
        about.append(GAIN.strip())
        words.append("gain " + ", ".join(f"{name} {gain.get(name, 0):.1%}" for name in names))
        panels.append("Share of the gain")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.8 + 0.27 * len(names)))
        axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
        for one, title in zip(axes, panels, strict=True):
            one.set_title(title)
            _plain(one)
        if measured is not None:
            dots(axes[0], [values[name] for name in names], one_color=True)
            axes[0].axvline(0, color=INK, linewidth=0.8)
        if gain:
            axes[-1].barh(
                range(len(names)), [gain.get(name, 0) for name in names], height=0.6, color=SERIES[0]
            )
            axes[-1].xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        axes[0].set_yticks(range(len(names)), [_short(name) for name in names])
        axes[0].set_ylim(len(names) - 0.4, -0.6)
        figure.subplots_adjust(**margins(figure, left=2.3, right=0.2, bottom=0.35, top=0.32), wspace=0.1)
        svg = svg_of(figure, "importance")
    return "Importance of the features", " ".join(about), Picture(svg, f"Importance: {'; '.join(words)}.")


def bars(shown: Bars, name: str) -> Picture:
    """A row for each value, in the order given; what is below 0 goes to the left."""
    values = [bar.value for bar in shown.bars]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.7 + 0.25 * len(values)))
        axes = figure.add_subplot()
        colors = [SERIES[0] if value >= 0 else SERIES[1] for value in values]
        axes.barh(range(len(values)), values, height=0.66, color=colors)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(values)), [_short(bar.name) for bar in shown.bars])
        axes.set(xlabel=shown.axis, ylim=(len(values) - 0.4, -0.6))
        _plain(axes)
        figure.subplots_adjust(**margins(figure, left=2.3, right=0.2, bottom=0.5, top=0.1))
        svg = svg_of(figure, name)
    words = ", ".join(f"{bar.name} {number(bar.value)}" for bar in shown.bars)
    return Picture(svg, f"{shown.title}, {shown.axis}: {words}.")


def histogram(shown: Histogram, name: str) -> Picture:
    """The shares of each series over one axis, with the marks by name."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.9))
        axes = figure.add_subplot()
        for index, series in enumerate(shown.series):
            color, style = SERIES[index], STYLES[index]
            axes.stairs(series.shares, shown.edges, color=color, linestyle=style, label=f" {series.name}")
            axes.stairs(series.shares, shown.edges, color=color, alpha=0.14, fill=True)
        for index, (mark, place) in enumerate(shown.marks.items()):
            axes.axvline(place, color=INK, linestyle=STYLES[index + 1], linewidth=1.1, label=f" {mark}")
        axes.set(xlabel=shown.axis, ylabel="Share of its rows", xlim=(shown.edges[0], shown.edges[-1]))
        axes.legend(fontsize=8.5)
        _plain(axes)
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        figure.subplots_adjust(**margins(figure, left=0.75, right=0.2, bottom=0.5, top=0.1))
        svg = svg_of(figure, name)
    words = [f"{one.name}: most often {_mode(one.shares, shown.edges)}" for one in shown.series]
    words += [f"{mark} at {number(place)}" for mark, place in shown.marks.items()]
    return Picture(svg, f"{shown.title}, {shown.axis}. {'; '.join(words)}.")


def _plain(axes: Any) -> None:
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.tick_params(axis="x", labelcolor=SOFT)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(tick)


def _short(name: str) -> str:
    """Keeps the label within the margin; a space in front, for matplotlib hides what begins with `_`."""
    return f" {name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + '…'}"


def _mode(shares: tuple[float, ...], edges: tuple[float, ...]) -> str:
    at = max(range(len(shares)), key=shares.__getitem__)
    return f"{number(edges[at])} to {number(edges[at + 1])}"
