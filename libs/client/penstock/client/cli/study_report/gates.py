"""Gates of the audit as limits of a study's objectives, for its plots."""

from __future__ import annotations

import json
from collections.abc import Sequence

from penstock.contracts.formula import parse
from penstock.contracts.pipeline import Gate
from penstock.tuner.v1 import tuner_pb2 as tuner


def gate_limits(found: tuner.Study, gates: Sequence[Gate]) -> dict[str, list[float]]:
    """Values of the objectives, by name, at which a gate opens: those of objectives that are a formula of
    its measure alone, as in `1 - auroc`.
    """
    limits: dict[str, list[float]] = {}
    for name, text in json.loads(found.tuner_json or "{}").get("objectives", {}).items():
        formula = parse(text)
        for gate in gates:
            measure = f"{gate.metric}.{gate.by}" if gate.by else gate.metric
            if formula.names == (measure,):
                limits.setdefault(name, []).append(formula({measure: gate.limit}))
    return limits
