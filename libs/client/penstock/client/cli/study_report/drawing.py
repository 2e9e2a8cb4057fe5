"""Parts of a plot as inline SVG: scales, axes, marks. Colours are the page's, so that paper, light and
dark read alike; marks differ in shape besides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import quantiles

from penstock.client.cli.leaderboard import name_of, values_of
from penstock.client.cli.study_report.html import Html, element, joined
from penstock.tuner.v1 import tuner_pb2 as tuner

# In units of the drawing, which is as wide as the page.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 880, 320, 62.0, 866.0, 28.0, 276.0

MARKS = {  # paths around the origin, and what they mean
    "trial": ("M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0", "a trial"),
    "front": ("M-5-5H5V5H-5Z", "on the front: none is better in all objectives"),
    "chosen": ("M0-10 2.9-4 9.5-3.1 4.8 1.5 5.9 8.1 0 5-5.9 8.1-4.8 1.5-9.5-3.1-2.9-4Z", "best, by the rule"),
    "own": ("M0-7 7 0 0 7-7 0Z", "my own values"),
    "own level": ("M-8 0H8", "level of my own values"),
    "beyond": ("M0-5 5 4-5 4Z", "lies beyond this edge"),
    "failed": ("M-4-4 4 4M-4 4 4-4", "failed"),
    "pruned": ("M-5 0H5", "stopped early"),
    "least": ("M-8 0H8", "least so far"),
    "limit": ("M-8 0H8", "limit of tuner.choose"),
    "gate": ("M-8 0H8", "gate of the audit, which judges other rows, by an interval"),
    "thread": ("M-8 0H8", "a trial, the stronger the better"),
    "thread best": ("M-8 0H8", "best, by the rule"),
}


@dataclass(frozen=True)
class Scale:
    """Numbers from `low` to `high` as places from `start` to `end`; beyond these lies the nearer end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round numbers, six at most."""
        rough = (self.high - self.low) / 5
        power = 10 ** math.floor(math.log10(rough))
        step = next(power * by for by in (1, 2, 5, 10) if power * by >= rough * (1 - 1e-9))
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [float(f"{step * index:.12g}") for index in range(first, last + 1)]


def usual(values: Sequence[float]) -> float:
    """The most that a value may be before it presses the others together (Tukey's outer fence)."""
    if len(values) < 4:
        return max(values)
    lower, _, upper = quantiles(values, n=4)
    return upper + 3 * (upper - lower)


def _spanning(values: Sequence[float], start: float, end: float, keep: Sequence[float]) -> Scale:
    """Scale with some room on both sides of the values."""
    inside = [value for value in values if value <= usual(values)] + list(keep)
    low, high = min(inside), max(inside)
    room = 0.06 * (high - low) or abs(high) * 0.05 or 0.5
    return Scale(low - room, high + room, start, end)


class Plane:
    """Room for values, of which a few that are far above the others lie beyond its edges, and for those
    to `keep`.
    """

    def __init__(
        self,
        x: Sequence[float],
        y: Sequence[float],
        keep_x: Sequence[float] = (),
        keep_y: Sequence[float] = (),
    ) -> None:
        self.x = _spanning(x, LEFT, RIGHT, keep_x)
        self.y = _spanning(y, BOTTOM, TOP, keep_y)

    def axes(self, across: str, upwards: str, *, whole: bool = False) -> Iterator[Html]:
        """Grid, numbers, and what each axis is; `whole`: of x."""
        for tick in self.y.ticks():
            yield self.level("grid", tick)
            yield element("text", f"{tick:g}", x=LEFT - 8, y=self.y(tick) + 4, text_anchor="end")
        for tick in self.x.ticks():
            if tick.is_integer() or not whole:
                yield element("text", f"{tick:g}", x=self.x(tick), y=BOTTOM + 20, text_anchor="middle")
        yield element("text", upwards, class_="axis", x=0, y=12)
        yield element("text", across, class_="axis", x=RIGHT, y=BOTTOM + 40, text_anchor="end")

    def level(self, kind: str, y: float) -> Html:
        return element("path", class_=kind, d=f"M{LEFT} {self.y(y):.1f}H{RIGHT}")

    def upright(self, kind: str, x: float) -> Html:
        return element("path", class_=kind, d=f"M{self.x(x):.1f} {TOP}V{BOTTOM}")

    def mark(self, kind: str, x: float, y: float, said: str) -> Html:
        beyond = kind in ("trial", "front") and (x > self.x.high or y > self.y.high)
        return _mark("beyond" if beyond else kind, self.x(x), self.y(y), element("title", said))


def _mark(kind: str, x: float, y: float, *inside: Html) -> Html:
    return element("path", *inside, class_=kind, d=MARKS[kind][0], transform=f"translate({x:.1f} {y:.1f})")


def figure(alt: str, *parts: str, note: str = "") -> Html:
    """A plot, with its words for those who do not see it; below it what its marks mean."""
    drawn = joined(*parts)
    drawing = element("svg", drawn, viewBox=f"0 0 {WIDTH} {HEIGHT}", aria_hidden="true")
    keys = (
        element("span", element("svg", _mark(kind, 10, 10), viewBox="0 0 20 20"), meaning, class_="key")
        for kind, (_, meaning) in MARKS.items()
        if f'class="{kind}"' in drawn
    )
    caption = element("figcaption", *keys, note)
    return element("figure", element("div", drawing, role="img", aria_label=alt), caption)


def kind_of(found: tuner.Study, trial: tuner.Trial) -> str:
    """Name of the trial's mark."""
    if found.HasField("best") and trial.number == found.best:
        return "chosen"
    return "own" if trial.number == 0 else "trial"


def told(found: tuner.Study, trial: tuner.Trial) -> str:
    """`trial 7, best: loss 2.25; mlp  dropout 0.1`, for who points at it."""
    objectives = zip(found.objectives, trial.values, strict=False)
    named = ", ".join(part for part in (f"trial {trial.number}", name_of(found, trial)) if part)
    measured = trial.failure or ", ".join(f"{name} {value:.4g}" for name, value in objectives)
    return f"{named}: {measured}; {trial.family}  {values_of(trial)}"
