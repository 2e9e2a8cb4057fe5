"""A trial: the very code of a training run, and more that is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from penstock.contracts.pipeline import Pipeline
from penstock.measures.scores import Scores
from penstock.modelkit import metrics
from penstock.modelkit.build import Judged, checked, judged
from penstock.modelkit.families.ensemble import TrainedEnsemble
from penstock.modelkit.family import Epoch, Prepared, family_of
from penstock.modelkit.graph import Runner
from penstock.modelkit.rows import RowSource
from penstock.runtime.spent import spent
from penstock_tuner.trials.folds import entities_of
from penstock_tuner.trials.groups import differences
from penstock_tuner.trials.losses import losses_by_group
from penstock_tuner.trials.measured import Measured
from penstock_tuner.trials.preparation import prepared
from penstock_tuner.trials.workbench import Workbench

WARM_UP, CALLS = 20, 200  # rows that are asked for the latency, one a call


def measure(
    pipeline: Pipeline,
    work: Workbench,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_fold: Callable[[int], None] = lambda fold: None,
) -> Measured:
    """Fits `pipeline`, overridden and planned, on the study's own train part, and on each fold. The first
    fit's graph is checked and timed; of a fold the answers alone count.

    `on_epoch` hears of the first fit's epochs, `on_fold` of each fold that is done. To be called in a
    process that has done nothing else: memory and processor time are its own. Raises what a run's
    fit raises: Invalid, NotAlike.
    """
    began = time.monotonic()
    rows = prepared(work, pipeline)
    model = family_of(pipeline.model).fit(pipeline, rows, on_epoch=on_epoch)
    own = checked(pipeline, rows, model)
    fits, parts = [_Fit(own, rows.validation.rows)], [work.validation]
    if folds := work.folds:
        fits, parts = [], [measured for _, measured in folds]
        for fold in range(len(folds)):
            fits.append(_of_fold(pipeline, prepared(work, pipeline, fold)))
            on_fold(fold)
    scores = Scores.pooled([fit.judged.scores for fit in fits])
    cost = spent("self")
    return Measured(
        metrics={
            **_together(pipeline, fits, scores),
            "latency_us": _latency_us(own.model, rows.validation.rows),
            "processor_s": cost["processor_s"],
            **({"members": len(model.used)} if isinstance(model, TrainedEnsemble) else {}),
        },
        losses=losses_by_group(scores, entities_of(parts)),
        weights=model.digest(),
        epochs=len(model.history),
        seconds=round(time.monotonic() - began, 3),
        processor_s=cost["processor_s"],
        memory=cost["peak_memory"],
    )


class _Fit(NamedTuple):
    judged: Judged
    validation: RowSource


def _of_fold(pipeline: Pipeline, rows: Prepared) -> _Fit:
    model = family_of(pipeline.model).fit(pipeline, rows)
    return _Fit(judged(pipeline, rows, model), rows.validation.rows)


def _together(pipeline: Pipeline, fits: list[_Fit], scores: Scores) -> dict[str, float]:
    """Measures of all fits' validation rows together, whose `scores` are pooled; the losses are means,
    those on validation rows weighed by their number.
    """
    sizes = [len(fit.validation) for fit in fits]
    losses = {
        name: float(np.average([fit.judged.metrics[name] for fit in fits], weights=sizes))
        for name in ("train_loss", "validation_loss")
    }
    groups = {
        field: np.concatenate([fit.validation.groups[field] for fit in fits])
        for field in fits[0].validation.groups
    }
    return metrics.of_scores(scores) | losses | dict(differences(pipeline, scores, groups))


def _latency_us(model: bytes, rows: RowSource) -> float:
    """Median time of one row."""
    run, first = Runner(model), next(rows.chunks(WARM_UP + CALLS))

    def took() -> Iterator[float]:
        for call in range(WARM_UP + CALLS):
            at = call % len(first)
            began = time.perf_counter()
            run(first.numbers[at : at + 1], first.strings[at : at + 1])
            yield (time.perf_counter() - began) * 1e6

    return float(np.median(list(took())[WARM_UP:]))
