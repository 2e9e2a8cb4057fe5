"""The end of a study: which trial is chosen, by which rule, and whether it is better than the file's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline.tuner import Tuner
from penstock.contracts.space import Space
from penstock_tuner import search
from penstock_tuner.search import Tried

OWN = 0  # the trial with the file's own values


def chosen(
    tuner: Tuner, space: Space, tried: Sequence[Tried], last_failure: str, *, looks: int
) -> dict[str, Any]:
    """Result of a study's job: number of the `best` trial, the `rule` in words, `looks` at the
    validation rows, the `conclusion` in words, and the parameters' `importance`. `looks`: by each
    trial.

    Raises Invalid where no trial ended well.
    """
    complete = [trial for trial in tried if trial.state == "complete"]
    if not complete:
        raise Invalid(
            f"none of {len(tried)} trials ended well; the last failure: {last_failure}",
            where="tuner.space",
            remedy="See all with `penstock study show`, then change the space or the file",
        )
    best = search.best(tuner, tried)
    return {
        "best": None if best is None else best.number,
        "rule": search.rule(tuner),
        "looks": looks * len(complete),
        "importance": search.importance(space, tried),
        "conclusion": concluded(best, next((trial for trial in complete if trial.number == OWN), None)),
    }


def concluded(best: Tried | None, own: Tried | None) -> str:
    if best is None:
        return "no trial keeps the limits of tuner.choose: your values stay"
    if best.number == OWN:
        return "no better than yours: keep it"
    assert best.values is not None
    if own is None or own.values is None:
        return f"trial {best.number} is the best; your own values could not be tried"
    if len(best.values) > 1:
        return f"trial {best.number} is chosen from the front"
    found, yours = best.values[0], own.values[0]
    return f"trial {best.number} is better than your own values: {found:.4f} against {yours:.4f}"
