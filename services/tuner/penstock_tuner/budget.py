"""The end of a search: when its budget is spent."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.contracts.durations import format_duration
from penstock.contracts.pipeline.tuner import Budget
from penstock_tuner.search import Tried

HOPELESS = 10  # first trials of an attempt that may all fail before the space is taken for impossible


def over(
    budget: Budget, tried: Sequence[Tried], best: int | None, spent_s: float, first: int = 0
) -> str | None:
    """Reason to start no further trial, in words; None while the search goes on. `best`: number of the
    best trial so far. `spent_s`: seconds since the study's start, preparation included. `first`: number
    of the first trial that this attempt began, as an extension may mend why others failed.
    """
    ended = [trial for trial in tried if trial.state != "running"]
    if budget.trials is not None and len(tried) >= budget.trials:
        return f"all {budget.trials} trials were started"
    if budget.longest is not None and spent_s >= budget.longest.total_seconds():
        return f"its {format_duration(budget.longest)} were over"
    if budget.patience is not None and best is not None:
        since = sum(trial.number > best for trial in ended)
        if since >= budget.patience:
            return f"{since} trials in a row brought nothing better"
    if all(trial.state == "failed" for trial in ended):
        failed = sum(trial.number >= first for trial in ended)
        if failed >= HOPELESS:
            return f"the first {failed} trials all failed"
    return None
