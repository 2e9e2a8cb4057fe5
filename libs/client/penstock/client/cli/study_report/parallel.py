"""Parallel coordinates: an axis a parameter, a line a trial, a plot a family."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.client.cli.leaderboard import ranked
from penstock.client.cli.study_report.drawing import BOTTOM, WIDTH, Scale, figure, kind_of, told, usual
from penstock.client.cli.study_report.html import Html, element
from penstock.tuner.v1 import tuner_pb2 as tuner

TOP, WITHOUT = 62.0, BOTTOM + 26  # `WITHOUT`: of trials that have no such parameter
FIRST, LAST = 24.0, WIDTH - 70.0  # places of axes
MANY = 7  # distinct numbers, from which an axis shows its ends alone
LOGARITHMIC = 50  # highest by lowest
LONGEST = 14  # characters of a value


@dataclass(frozen=True)
class Axis:
    key: str
    name: str
    places: Mapping[str, float]  # of each value, which is written as JSON; "": of trials without one
    shown: Sequence[str]

    def __call__(self, choices: Mapping[str, Any]) -> float:
        return self.places[json.dumps(choices[self.key]) if self.key in choices else ""]


def parallel(found: tuner.Study, family: str) -> Html:
    """The family's trials that have chosen values; nothing of fewer than two, or where all are alike."""
    tried = [trial for trial in ranked(found) if trial.family == family and trial.values and _choices(trial)]
    if len(tried) < 2:
        return Html()
    most, count = usual([trial.values[0] for trial in tried]), len(tried)
    tried = [trial for trial in tried if trial.values[0] <= most]
    chosen = [_choices(trial) | {"": trial.values[0]} for trial in tried]
    axes = [one for one in _axes(chosen, found.objectives[0]) if len(one.places) > 1 or not one.key]
    if len(axes) < 2:
        return Html()
    x = Scale(0, len(axes) - 1, FIRST, LAST)
    lines = []
    for rank, (trial, choices) in enumerate(zip(tried, chosen, strict=True)):
        path = "L".join(f"{x(index):.1f} {one(choices):.1f}" for index, one in enumerate(axes))
        best = kind_of(found, trial) == "chosen"
        seen = 1 if best else 0.12 + 0.85 * (1 - rank / len(tried)) ** 2
        kind, title = "thread best" if best else "thread", element("title", told(found, trial))
        lines.append(element("path", title, class_=kind, d=f"M{path}", style=f"opacity: {seen:.2f}"))
    return figure(
        f"Values of {len(tried)} trials of {family}: {', '.join(one.name for one in axes)}",
        *reversed(lines),  # the best on top
        *(part for index, one in enumerate(axes) for part in _drawn(one, x(index), row=index % 2)),
        note=(f"left out: {far} far above the others" if (far := count - len(tried)) else ""),
    )


def _choices(trial: tuner.Trial) -> dict[str, Any]:
    return dict(json.loads(trial.choices_json or "{}"))


def _axes(chosen: Sequence[Mapping[str, Any]], objective: str) -> Iterator[Axis]:
    """An axis a parameter, named by the last part of its name where no two are alike; the objective last."""
    keys = list(dict.fromkeys(key for choices in chosen for key in choices if key))
    last = Counter(key.rpartition(".")[2] for key in keys)
    for key in [*keys, ""]:
        short = key.rpartition(".")[2]
        name = objective if not key else short if last[short] == 1 else key
        values = [choices[key] for choices in chosen if key in choices]
        yield _axis(key, name, values, {"": WITHOUT} if len(values) < len(chosen) else {})


def _axis(key: str, name: str, values: Sequence[Any], foot: Mapping[str, float]) -> Axis:
    """Numbers lie by their size, by orders of magnitude where they span some; all else in its order as
    text.
    """
    known = {json.dumps(value): value for value in values}
    numbers = all(type(value) in (int, float) for value in values)
    if not numbers:
        sizes = {text: float(index) for index, text in enumerate(sorted(known))}
    elif min(values) > 0 and max(values) / min(values) >= LOGARITHMIC:
        sizes = {text: math.log(value) for text, value in known.items()}
    else:
        sizes = {text: float(value) for text, value in known.items()}
    scale = Scale(min(sizes.values()), max(sizes.values()), BOTTOM, TOP)
    places = {text: scale(size) for text, size in sizes.items()}
    few = not numbers or len(known) < MANY
    shown = [text for text, y in places.items() if few or y in (BOTTOM, TOP)]
    return Axis(key, name, {**places, **foot}, [*shown, *foot])


def _drawn(axis: Axis, x: float, *, row: int) -> Iterator[Html]:
    """The axis with its values; every second name stands higher and the objective's above all, so that
    they have room.
    """
    yield element("path", class_="upright", d=f"M{x:.1f} {TOP}V{BOTTOM}")
    for text in axis.shown:
        yield element("text", _cut(text), class_="halo", x=x + 6, y=axis.places[text] + 4)
    if axis.key:
        yield element("text", axis.name, class_="axis halo", x=x - 20, y=44 - 16 * row)
    else:
        yield element("text", axis.name, class_="axis halo", x=WIDTH, y=12, text_anchor="end")


def _cut(written: str) -> str:
    value = json.loads(written or '"none"')
    text = f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else written
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
