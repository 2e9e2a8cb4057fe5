"""The end of a study: which trial is chosen, by which rule, and whether it is better than the file's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline.tuner import Tuner
from penstock.contracts.space import Space
from penstock_tuner import search
from penstock_tuner.search import Tried

OWN = 0  # the trial with the file's own values
GROUPS_NEEDED = 10  # for an interval


def chosen(
    tuner: Tuner,
    space: Space,
    tried: Sequence[Tried],
    last_failure: str,
    *,
    looks: int,
    passed: Mapping[str, str],
) -> dict[str, Any]:
    """Result of a study's job: number of the `best` trial, the `rule` in words, `looks` at the
    validation rows, the `conclusion` in words, and the parameters' `importance`. `looks`: by each
    trial. `passed`: families that were not searched, and why.

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
    own = next((trial for trial in complete if trial.number == OWN), None)
    return {
        "best": None if best is None else best.number,
        "rule": search.rule(tuner),
        "looks": looks * len(complete),
        "importance": search.importance(space, tried),
        "conclusion": concluded(best, own, _compared(tried))
        + averaged(best, complete)
        + _failed(tried)
        + "".join(f"; `{kind}` was not tried: {why}" for kind, why in passed.items()),
    }


def _failed(tried: Sequence[Tried]) -> str:
    """Says how many trials failed: what they would have found is not known."""
    failed = sum(trial.state == "failed" for trial in tried)
    return f"; {failed} of {len(tried)} trials failed, `penstock study show` says why" if failed else ""


def _compared(tried: Sequence[Tried]) -> int:
    """Trials among which the best is, beside the file's own values; those that were stopped early too."""
    return sum(trial.number > OWN and trial.state in ("complete", "pruned") for trial in tried)


def concluded(best: Tried | None, own: Tried | None, among: int) -> str:
    """Sentence on the `best` of so many trials beside the file's `own` values."""
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
    values = f"your own values: {found:.4f} against {yours:.4f}"
    lower = lower_by(best.losses, own.losses, among)
    if lower is None:
        return f"trial {best.number} is better than {values}"
    by, least, most = lower
    of = f", as the best of {among}" if among > 1 else ""
    validation = f"its validation loss is lower by {by:.4f} ({least:.4f} to {most:.4f}{of})"
    if least > 0:
        return f"trial {best.number} is better than {values}; {validation}"
    return f"trial {best.number} is the best, and not proven better than {values}; {validation}"


def averaged(best: Tried | None, complete: Sequence[Tried]) -> str:
    """Gain, size and latency of an ensemble that is the best; else that it is none; "" without one."""
    ensembles = [trial for trial in complete if trial.members]
    if best is None or best.number == OWN or not ensembles:
        return ""
    if not best.members:
        return f"; the average of trials {_listed(ensembles[-1].members)} is no better"
    first = next(trial for trial in complete if trial.number == best.members[0])
    gain = lower_by(best.losses, first.losses)
    against = f"lower by {gain[0]:.4f} ({gain[1]:.4f} to {gain[2]:.4f})" if gain else "lower"
    return (
        f"; it averages trials {_listed(best.members)}, of which {best.metrics.get('members', 0):.0f} count:"
        f" {against} than trial {first.number} alone, and a row takes {best.latency_us / 1000:.2f} ms"
    )


def _listed(numbers: Sequence[int]) -> str:
    *others, last = map(str, numbers)
    return f"{', '.join(others)} and {last}"


def lower_by(
    found: Sequence[float], own: Sequence[float], among: int = 1
) -> tuple[float, float, float] | None:
    """Estimates by how much the losses of the same groups of entities are lower, with its 95 % interval
    from the spread of the groups (random groups: Wolter 2007, chapter 2). It holds for all of `among`
    trials at once, so for the best of them too (Bonferroni: Dunn 1961). None for fewer than
    `GROUPS_NEEDED` groups.
    """
    if len(found) != len(own) or len(own) < GROUPS_NEEDED:
        return None
    by = np.subtract(own, found)
    half = float(stdtrit(len(by) - 1, 1 - 0.025 / max(among, 1)) * by.std(ddof=1) / math.sqrt(len(by)))
    return float(by.mean()), float(by.mean()) - half, float(by.mean()) + half
