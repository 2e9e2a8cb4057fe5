"""Pictures of what the model goes by, from the data that its family put into the package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from penstock.packages.parts import Bar, Bars, Explanation, Histogram
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
    svg_of,
    tick,
)

LONGEST_NAME = 28
MAX_FEATURES = 30
GAIN = (
    "By how much all splits on a feature lowered the loss on the rows that the trees were made from. A"
    " feature with many different values gains by chance, too."
)


def explained(found: Explanation | None) -> list[tuple[str, str, Picture]]:
    """Each picture with its title and what it shows."""
    return list(_explained(found)) if found is not None else []


def _explained(found: Explanation) -> Iterator[tuple[str, str, Picture]]:
    if found.gain:
        rising = sorted(found.gain.items(), key=lambda item: -item[1])[:MAX_FEATURES]
        gain = Bars(
            title="Importance by gain",
            about=GAIN,
            axis="Share of the gain",
            bars=tuple(Bar(name=name, value=share) for name, share in rising),
        )
        yield gain.title, gain.about, bars(gain, "gain")
    for index, picture in enumerate(found.pictures):
        name = f"shown-{index}"
        drawn = histogram(picture, name) if isinstance(picture, Histogram) else bars(picture, name)
        yield picture.title, picture.about, drawn


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
