"""The report's pictures as inline SVG: text stays text, colours are the page's own variables, so
that paper, light and dark all read well.

Groups differ by marker and line style besides colour.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from penstock.contracts.events import GateResult, Interval
from penstock.packages.format import Curves
from penstock_ethics_audit.audit import GroupingFindings
from penstock_ethics_audit.pictures import Curve, Histogram, Pictures

mpl.use("svg")

INK, SOFT, LINE, PASS, FAIL, UNSURE = (f"#0000{index:02x}" for index in range(1, 7))
SERIES = tuple(f"#0001{index:02x}" for index in range(8))
_VARIABLES = dict(
    zip((INK, SOFT, LINE, PASS, FAIL, UNSURE), ("ink", "soft", "line", "pass", "fail", "unsure"), strict=True)
) | {color: f"series-{index}" for index, color in enumerate(SERIES)}
"""No screen shows these colours: each stands for a variable of the page."""
WIDTH, GATE_WIDTH = 9.2, 2.9
"""Inches: a picture as wide as the page, and a row of the forest plot."""
MARKERS = "osD^vPX*"
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
VERDICT_COLORS = {"pass": PASS, "fail": FAIL, "inconclusive": UNSURE}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "penstock",
    "font.size": 9.5,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True)
class Picture:
    svg: str
    alt: str
    """What it shows, in words."""
    caption: str = ""


def gate(result: GateResult, name: str) -> Picture | None:
    """One row of the forest plot: the interval, and the side of the limit that is allowed."""
    if result.value is None:
        return None
    value, limit = result.value, result.limit
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(GATE_WIDTH, 0.62))
        axes = figure.add_axes((0.06, 0.42, 0.88, 0.54))
        low, high = _span([value.lower, value.upper, limit])
        allowed = (limit, high) if result.bound == "at_least" else (low, limit)
        axes.axvspan(*allowed, color=PASS, alpha=0.13, linewidth=0)
        axes.axvline(limit, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
        color = VERDICT_COLORS[result.verdict]
        axes.plot([value.lower, value.upper], [0, 0], color=color, linewidth=2.6, solid_capstyle="butt")
        for end in (value.lower, value.upper):
            axes.plot([end, end], [-0.32, 0.32], color=color, linewidth=1.6)
        axes.plot([value.estimate], [0], marker="D", color=color, markersize=5.5, linestyle="none")
        axes.set(xlim=(low, high), ylim=(-1, 1), yticks=[])
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(labelsize=8, length=2)
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        svg = _svg(figure, f"gate-{name}")
    side = "at least" if result.bound == "at_least" else "at most"
    return Picture(svg, f"{name}: {said(value)}; allowed is {side} {limit:g}.")


def rates(found: GroupingFindings, names: dict[str, str], label: str) -> Picture:
    """Selection, true and false positive rate of each group, with intervals."""
    groups = list(found.groups)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, 0.75 + 0.36 * len(groups)))
        panels = figure.subplots(1, 3, sharey=True)
        uppers = [
            value.upper for group in groups for of in names if (value := group.rate(of, label)) is not None
        ]
        scale = (-0.015, 1.06 * max(uppers, default=1.0))
        parts = []
        for axes, (of, title) in zip(panels, names.items(), strict=True):
            values = [group.rate(of, label) for group in groups]
            _dots(axes, values)
            axes.set_xlim(*scale)
            axes.set_title(title)
            parts.append(
                f"{title}: " + ", ".join(f"{g.group} {said(v)}" for g, v in zip(groups, values, strict=True))
            )
        _group_axis(panels[0], [group.group for group in groups])
        figure.subplots_adjust(**_margins(figure, left=1.5, right=0.15, bottom=0.32, top=0.28), wspace=0.12)
        svg = _svg(figure, f"rates-{found.by}-{label}")
    return Picture(svg, f"Rates by {found.by}. " + ". ".join(parts) + ".")


def errors(found: GroupingFindings) -> Picture:
    """A regression's mean absolute error and mean error of each group, with intervals."""
    groups = list(found.groups)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, 0.75 + 0.36 * len(groups)))
        panels = figure.subplots(1, 2, sharey=True)
        parts = []
        for axes, (of, title) in zip(
            panels,
            {"mae": "Mean absolute error", "mean_error": "Mean error (said - true)"}.items(),
            strict=True,
        ):
            values = [group.performance.get(of) for group in groups]
            _dots(axes, values)
            axes.set_title(title)
            parts.append(
                f"{title}: " + ", ".join(f"{g.group} {said(v)}" for g, v in zip(groups, values, strict=True))
            )
        panels[1].axvline(0, color=INK, linewidth=0.8)
        _group_axis(panels[0], [group.group for group in groups])
        figure.subplots_adjust(**_margins(figure, left=1.5, right=0.15, bottom=0.32, top=0.28), wspace=0.12)
        svg = _svg(figure, f"errors-{found.by}")
    return Picture(svg, f"Errors by {found.by}. " + ". ".join(parts) + ".")


def curves(drawn: Pictures, by: str, *, classifies: bool, areas: dict[str, Interval | None]) -> Picture:
    """ROC (binary) beside calibration, a line a group. `areas`: AUROC by group, for the legend and
    the words.
    """
    roc, calibration = drawn.roc.get(by, ()), drawn.calibration.get(by, ())
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, 4.1) if roc else (4.8, 4.1))
        panels = [figure.add_subplot(1, 2 if roc else 1, index + 1) for index in range(2 if roc else 1)]
        if roc:
            _lines(panels[0], roc, {curve.group: _with_area(curve.group, areas) for curve in roc})
            panels[0].plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=(0, (1, 3)))
            panels[0].set(
                title="ROC",
                xlabel="False positive rate",
                ylabel="True positive rate",
                xlim=(0, 1),
                ylim=(0, 1.01),
            )
            panels[0].legend(loc="lower right", fontsize=8.5)
        _lines(
            panels[-1], calibration, {curve.group: _named(curve.group) for curve in calibration}, markers=True
        )
        ends = (
            [0.0, 1.0]
            if classifies
            else _span([value for curve in calibration for value in (*curve.x, *curve.y)] or [0, 1])
        )
        panels[-1].plot(ends, ends, color=SOFT, linewidth=0.8, linestyle=(0, (1, 3)))
        panels[-1].set(
            title="Calibration",
            xlabel="Said, on average in each tenth of the rows",
            ylabel="Seen",
            xlim=ends,
            ylim=ends,
        )
        panels[-1].legend(loc="upper left", fontsize=8.5)
        for axis in (panels[-1].xaxis, panels[-1].yaxis):
            axis.set_major_locator(MaxNLocator(5))
            axis.set_major_formatter(_tick)
        figure.subplots_adjust(
            **_margins(figure, left=0.6 if classifies else 0.85, right=0.15, bottom=0.55, top=0.32),
            wspace=0.2,
        )
        svg = _svg(figure, f"curves-{by}")
    words = [f"{_named(curve.group)}: {_calibrated(curve)}" for curve in calibration if curve.x]
    if roc:
        words = [f"{_named(group)}: AUROC {said(area)}" for group, area in areas.items()] + words
    return Picture(
        svg,
        f"{'ROC curves and calibration' if roc else 'Calibration'}{f' by {by}' if by else ''}. "
        + ". ".join(words)
        + ".",
    )


def distributions(drawn: Pictures, by: str, xlabel: str) -> Picture | None:
    """What the model says, by group and true label: small multiples on one scale."""
    histograms = drawn.distributions.get(by, ())
    groups = list(dict.fromkeys(histogram.group for histogram in histograms))
    if not groups:
        return None
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH * max(columns, 1.5) / 3, 0.55 + 1.75 * rows))
        panels = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
        for axes, group in zip(panels, groups, strict=False):
            of = [histogram for histogram in histograms if histogram.group == group]
            for index, histogram in enumerate(of):
                axes.stairs(
                    histogram.shares,
                    histogram.edges,
                    label=histogram.label or None,
                    color=SERIES[index],
                    linestyle=STYLES[index],
                    linewidth=1.5,
                    fill=False,
                )
                axes.stairs(histogram.shares, histogram.edges, color=SERIES[index], alpha=0.14, fill=True)
            axes.set_title(_named(group))
            axes.tick_params(labelbottom=True, axis="both", length=0)
            axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.xaxis.set_major_formatter(_tick)
        for axes in panels[len(groups) :]:
            axes.set_visible(False)
        for axes in panels[max(0, len(groups) - columns) : len(groups)]:
            axes.set_xlabel(xlabel)
        if any(histogram.label for histogram in histograms):
            panels[0].legend(
                title="True label" if xlabel.startswith("Prob") else None, fontsize=8.5, title_fontsize=8.5
            )
        figure.subplots_adjust(
            **_margins(figure, left=0.6, right=0.15, bottom=0.5, top=0.28), wspace=0.12, hspace=0.5
        )
        svg = _svg(figure, f"distributions-{by}")
    words = [
        f"{_named(h.group)}{f', label {h.label}' if h.label else ''}: middle half {_middle(h)}"
        for h in histograms
        if sum(h.shares)
    ]
    return Picture(svg, f"{xlabel}{f' by {by}' if by else ''}. " + "; ".join(words) + ".")


def training(found: Curves) -> Picture | None:
    """Loss and metric by epoch."""
    if not found.points:
        return None
    epochs = [point.epoch for point in found.points]
    best = min(found.points, key=lambda point: point.validation_loss)
    with mpl.rc_context(_STYLE):
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
        figure.subplots_adjust(**_margins(figure, left=0.6, right=0.15, bottom=0.5, top=0.3), wspace=0.2)
        svg = _svg(figure, "training")
    last = found.points[-1]
    return Picture(
        svg,
        f"Training: {len(epochs)} epochs; training loss ends at {last.train_loss:.3f}; validation loss is"
        f" lowest in epoch {best.epoch} with {best.validation_loss:.3f}; validation {found.metric} there"
        f" {best.validation_metric:.3f}.",
    )


def said(value: Interval | None) -> str:
    """`0.115 (0.104 to 0.142)`"""
    return (
        "not defined"
        if value is None
        else f"{number(value.estimate)} ({number(value.lower)} to {number(value.upper)})"
    )


def number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"


def _tick(value: float, _position: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


# -- parts -----------------------------------------------------------------------------------------


def _dots(axes: Any, values: Sequence[Interval | None]) -> None:
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
            continue
        color = SERIES[row % len(SERIES)]
        axes.plot([value.lower, value.upper], [row, row], color=color, linewidth=1.8, solid_capstyle="butt")
        for end in (value.lower, value.upper):
            axes.plot([end, end], [row - 0.17, row + 0.17], color=color, linewidth=1.2)
        axes.plot(
            [value.estimate],
            [row],
            marker=MARKERS[row % len(MARKERS)],
            color=color,
            markersize=5,
            linestyle="none",
        )
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, prune="upper"))
    axes.xaxis.set_major_formatter(_tick)


def _group_axis(axes: Any, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, labelcolor=INK)


def _lines(axes: Any, lines: Sequence[Curve], labels: dict[str, str], *, markers: bool = False) -> None:
    for index, curve in enumerate(lines):
        axes.plot(
            curve.x,
            curve.y,
            color=SERIES[index % len(SERIES)],
            linestyle=STYLES[index % len(STYLES)],
            marker=MARKERS[index % len(MARKERS)] if markers else None,
            markersize=4.5,
            label=labels[curve.group],
        )


def _with_area(group: str, areas: dict[str, Interval | None]) -> str:
    area = areas.get(group)
    return _named(group) if area is None else f"{_named(group)}  {area.estimate:.3f}"


def _named(group: str) -> str:
    return group or "all rows"


def _calibrated(curve: Curve) -> str:
    gap = max(((abs(x - y), x, y) for x, y in zip(curve.x, curve.y, strict=True)), key=lambda found: found[0])
    return f"furthest apart where {number(gap[1])} is said and {number(gap[2])} seen"


def _middle(histogram: Histogram) -> str:
    total = np.cumsum(histogram.shares)
    low, high = (histogram.edges[int(np.searchsorted(total, share * total[-1]))] for share in (0.25, 0.75))
    return f"{number(low)} to {number(high + histogram.edges[1] - histogram.edges[0])}"


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.12 * (high - low) or 0.05
    return low - room, high + room


def _margins(figure: Figure, *, left: float, right: float, bottom: float, top: float) -> dict[str, float]:
    """Inches to shares."""
    width, height = figure.get_size_inches()
    return {
        "left": left / width,
        "right": 1 - right / width,
        "bottom": bottom / height,
        "top": 1 - top / height,
    }


def _svg(figure: Figure, name: str) -> str:
    """The `<svg>` element alone: own ids, page colours, no namespace addresses, hidden from readers
    who are told the words.
    """
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    prefix = re.sub(r"[^a-z0-9]+", "-", name.lower())
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    text = re.sub(r'\b(?:xlink:)?href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(
        r"#000[01]0[0-9a-f]",
        lambda found: f"var(--{_VARIABLES[found[0]]})" if found[0] in _VARIABLES else found[0],
        text,
    )
    text = re.sub(r"font(-family)?: ?([^;\"]*?)'?DejaVu Sans'?[^;\"]*", _page_font, text)
    size = (
        f"max-width: {100 * min(1.0, figure.get_figwidth() / WIDTH):.0f}%"
        if figure.get_figwidth() > GATE_WIDTH
        else ""
    )
    return re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>',
        rf'<svg aria-hidden="true" focusable="false" style="{size}" \1>',
        text,
        count=1,
    )


def _page_font(found: re.Match[str]) -> str:
    size = re.search(r"[\d.]+px", found[2] or "")
    return f"font-family: inherit; font-size: {size[0]}" if size else "font-family: inherit"
