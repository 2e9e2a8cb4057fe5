"""Plot of an objective over the trials in order."""

from __future__ import annotations

from itertools import accumulate

from penstock.client.cli.study_report.drawing import Plane, figure, kind_of, told
from penstock.client.cli.study_report.html import Html, element
from penstock.tuner.v1 import tuner_pb2 as tuner

VALUELESS = {tuner.Trial.STATE_FAILED: "failed", tuner.Trial.STATE_PRUNED: "pruned"}


def history(found: tuner.Study, index: int) -> Html:
    """The study's objective `index`; nothing where no trial has a value."""
    tried = [(trial, trial.values[index]) for trial in found.trials if trial.values]
    if not tried:
        return Html()
    values = [value for _, value in tried]
    own = [value for trial, value in tried if trial.number == 0]
    plane = Plane([trial.number for trial in found.trials], values, keep_y=own)
    marks = [(kind_of(found, trial), trial, value) for trial, value in tried]
    marks += [(VALUELESS[t.state], t, plane.y.low) for t in found.trials if t.state in VALUELESS]
    marks.sort(key=lambda one: one[0] in ("own", "chosen"))  # these on top
    name = found.objectives[index]
    against = f"; my own values have {own[0]:.4g}" if own else ""
    return figure(
        f"{name} of {len(tried)} trials in order; the least is {min(values):.4g}{against}",
        *plane.axes("trial", f"{name}, the less the better", whole=True),
        *(plane.level("own level", value) for value in own),
        element("path", class_="least", d=_steps(plane, [trial.number for trial, _ in tried], values)),
        *(plane.mark(kind, trial.number, value, told(found, trial)) for kind, trial, value in marks),
    )


def _steps(plane: Plane, numbers: list[int], values: list[float]) -> str:
    """Path of the least value so far."""
    places = zip(map(plane.x, numbers), map(plane.y, accumulate(values, min)), strict=True)
    path = "".join(f"H{x:.1f}V{y:.1f}" for x, y in places)
    return f"M{plane.x(numbers[0]):.1f} {plane.y(values[0]):.1f}{path}H{plane.x.end}"
