"""Plot of two objectives against each other: the Pareto front, the limits of `tuner.choose`, the
audit's gates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from penstock.client.cli.leaderboard import undominated
from penstock.client.cli.study_report.drawing import Plane, figure, kind_of, told
from penstock.client.cli.study_report.html import Html
from penstock.tuner.v1 import tuner_pb2 as tuner


def front(
    found: tuner.Study, across: int, upwards: int, gates: Mapping[str, Sequence[float]] = MappingProxyType({})
) -> Html:
    """Objectives `across` and `upwards`; nothing where no trial has values. `gates`: by objective."""
    tried = [trial for trial in found.trials if trial.values]
    if not tried:
        return Html()
    names = found.objectives[across], found.objectives[upwards]
    limits = json.loads(found.tuner_json or "{}").get("choose", {}).get("at_most", {})
    most_x, most_y = ([limits[name]] if name in limits else [] for name in names)
    gates_x, gates_y = (list(gates.get(name, ())) for name in names)
    places = [(trial.values[across], trial.values[upwards]) for trial in tried]
    plane = Plane([x for x, _ in places], [y for _, y in places], most_x + gates_x, most_y + gates_y)
    best = [trial for trial in tried if undominated(found, trial)]
    marks = [
        ("front" if trial in best and kind == "trial" else kind, place, told(found, trial))
        for trial, place in zip(tried, places, strict=True)
        for kind in [kind_of(found, trial)]
    ]
    marks.sort(key=lambda one: ("trial", "front", "own", "chosen").index(one[0]))  # the last on top
    return figure(
        f"{names[1]} against {names[0]} of {len(tried)} trials; {len(best)} are on the Pareto front",
        *plane.axes(*(f"{name}, the less the better" for name in names)),
        *(plane.upright("gate", limit) for limit in gates_x),
        *(plane.level("gate", limit) for limit in gates_y),
        *(plane.upright("limit", most) for most in most_x),
        *(plane.level("limit", most) for most in most_y),
        *(plane.mark(kind, *place, said) for kind, place, said in marks),
    )
