"""Simpler models on the audit rows: what the trainer fitted beside the model, scored and compared."""

from __future__ import annotations

import structlog

from penstock.contracts.errors import Invalid
from penstock.contracts.events import Interval
from penstock.contracts.measures import PROMOTION_DEFAULT, Task
from penstock.measures.comparison import worse_by
from penstock.measures.intervals import Bootstrap
from penstock.measures.performance import FORMULAS
from penstock.measures.scores import Scores
from penstock.measures.weighted import together
from penstock.packages.format import Package
from penstock_ethics_audit.audit import Finding
from penstock_ethics_audit.graphs import load
from penstock_ethics_audit.split import Split, score

log = structlog.get_logger(__name__)

RESAMPLES = 200
MEASURED: dict[Task, tuple[str, ...]] = {
    "binary": ("auroc", "accuracy", "log_loss"),
    "multiclass": ("accuracy", "log_loss"),
    "regression": ("r2", "rmse", "mae"),
}


class Baseline(Finding):
    name: str  # its family
    performance: dict[str, Interval | None]
    metric: str  # by which the two are compared
    # How much worse the model is than this one, row by row; below 0 it is better.
    worse_by: Interval | None


def baselines(
    package: Package, split: Split, scores: Scores, seed: int, confidence: float
) -> tuple[Baseline, ...]:
    """Scores each baseline of the package. One that does not run is left out: it is no part of the
    model.
    """
    outputs = {name: one for name, one in package.signature.outputs.items() if name != "interval"}
    signature = package.signature.model_copy(update={"outputs": outputs})
    metric = PROMOTION_DEFAULT[scores.task]
    found = []
    for name, graph in package.baselines.items():
        try:
            theirs = score(split, load(graph), signature)
        except Invalid as error:
            log.warning("baseline_left_out", name=name, why=str(error))
            continue
        bootstrap = Bootstrap(theirs.units, RESAMPLES, confidence, seed)
        meters = {of: meter for of in MEASURED[scores.task] if (meter := FORMULAS[of](theirs)) is not None}
        worse = worse_by(
            metric, theirs, scores, paired=True, resamples=RESAMPLES, confidence=confidence, seed=seed
        )
        performance = bootstrap.measured(together(meters))
        found.append(Baseline(name=name, performance=performance, metric=metric, worse_by=worse))
    return tuple(found)
