"""Pictures as inline SVG: text stays text, colours are the page's own variables, so that paper, light
and dark all read well. Groups differ by marker and line style besides colour.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from penstock.contracts.events import Interval

mpl.use("svg")

INK, SOFT, LINE, PASS, FAIL, UNSURE = (f"#0000{index:02x}" for index in range(1, 7))
SERIES = tuple(f"#0001{index:02x}" for index in range(8))
# Variables of the page by the placeholder colour that stands for each.
_VARIABLES = dict(
    zip((INK, SOFT, LINE, PASS, FAIL, UNSURE), ("ink", "soft", "line", "pass", "fail", "unsure"), strict=True)
) | {color: f"series-{index}" for index, color in enumerate(SERIES)}
# Widths in inches: of a picture as wide as the page, and of a row of the forest plot.
WIDTH, GATE_WIDTH = 9.2, 2.9
MARKERS = "osD^vPX*"
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
VERDICT_COLORS = {"pass": PASS, "fail": FAIL, "inconclusive": UNSURE}

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "penstock",
    "font.size": 9.5,
    "font.family": "sans-serif",
    "text.parse_math": False,  # a group's name may hold `$`
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.titley": 1.0,  # nothing stands above the axes; to look for it is a fifth of the drawing
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
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
    alt: str  # the picture in words, for those who do not see it


def said(value: Interval | None) -> str:
    """Writes an interval: `0.115 (0.104 to 0.142)`."""
    return (
        "not defined"
        if value is None
        else f"{number(value.estimate)} ({number(value.lower)} to {number(value.upper)})"
    )


def number(value: float) -> str:
    return f"{value:z.3f}" if abs(value) < 1000 else f"{value:,.0f}"


def tick(value: float, _position: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.12 * (high - low) or 0.05
    return low - room, high + room


def margins(figure: Figure, *, left: float, right: float, bottom: float, top: float) -> dict[str, float]:
    """Margins in inches as shares of the figure."""
    width, height = figure.get_size_inches()
    return {
        "left": left / width,
        "right": 1 - right / width,
        "bottom": bottom / height,
        "top": 1 - top / height,
    }


def svg_of(figure: Figure, name: str) -> str:
    """The `<svg>` element alone: own ids, page colours, no namespace addresses, hidden from readers
    who are told the words.
    """
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # The reader's own fonts draw the text; matplotlib's is asked for its size alone.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    width = figure.get_figwidth()
    size = f"--share: {min(1.0, width / WIDTH):.2f}" if width > GATE_WIDTH else ""
    prefix = re.sub(r"[^a-z0-9]+", "-", name.lower())
    edits: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
        (r"^.*?(?=<svg)", ""),
        (r"<metadata>.*?</metadata>|<!--.*?-->\s*", ""),
        (r'\sxmlns(:\w+)?="[^"]*"', ""),
        (r'\bid="([^"]+)"', rf'id="{prefix}-\1"'),
        (r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)"),
        (r'\b(?:xlink:)?href="#([^"]+)"', rf'href="#{prefix}-\1"'),
        *((color, f"var(--{variable})") for color, variable in _VARIABLES.items()),
        (r"font(-family)?: ?([^;\"]*?)'?DejaVu Sans'?[^;\"]*", _page_font),
        (
            r'<svg [^>]*?(viewBox="[^"]*")[^>]*>',
            rf'<svg aria-hidden="true" focusable="false" style="{size}" \1>',
        ),
    ]
    text = buffer.getvalue()
    for pattern, replacement in edits:
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    return text


def _page_font(found: re.Match[str]) -> str:
    size = re.search(r"[\d.]+px", found[2] or "")
    return f"font-family: inherit; font-size: {size[0]}" if size else "font-family: inherit"
