"""Champion against challenger: how much worse the challenger could be.

Both were scored by their own audits on their own audit splits, rows that neither was trained on.
Compared are the rows in both splits, row by row. With fewer than MIN_PAIRED_ROWS in common (a split
by time, say) the two splits are drawn independently: as honest, and wider, so a challenger must be
better by more. `penstock.measures.comparison` has the measure, the draws and the interval, at the
pipeline's `audit.confidence`; its upper end is what the registry judges.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.contracts.errors import TREATMENTS, Invalid, PenstockError, Tampered
from penstock.contracts.events import AuditCompleted
from penstock.contracts.measures import MEASURES, PROMOTION_DEFAULT, Task, over_rows
from penstock.contracts.pipeline import Pipeline
from penstock.measures.comparison import estimated_loss, worse_by
from penstock.measures.scores import Scores
from penstock.runtime.artifacts import Artifacts
from penstock_model_registry.promotion import Drop

MIN_PAIRED_ROWS = 100
MAX_ROWS = 100_000  # more are thinned, by row hash: the same rows for both
MAX_DRAWS = 20_000_000  # rows times resamples: about a second
MIN_RESAMPLES = 200
_HELD: dict[Task, str] = {
    "binary": "probabilities of two classes",
    "multiclass": "probabilities of several classes",
    "regression": "values and no probabilities",
}
_REMEDY = "Set `promotion: {compare: none}` in the pipeline file, apply it and promote the version by hand"


@dataclass(frozen=True)
class Scored:
    """A model's scores on its audit split, with the identity of each row."""

    rows: NDArray[np.bytes_]  # [N] hashed identities, each once
    scores: Scores

    def take(self, index: NDArray[np.intp]) -> Scored:
        return Scored(self.rows[index], self.scores.take(index))


def measure_drop(
    artifacts: Artifacts,
    pipeline: Pipeline,
    champion: AuditCompleted | None,
    challenger: AuditCompleted | None,
) -> Drop:
    """Measures how much worse the challenger is by the policy's metric, or by the target's default
    where that one does not fit the target. Blocks: reads the scores that both audits kept. Raises
    Invalid where it cannot be said, NotFound and Tampered as the scores are.
    """
    return compare(
        read_scores(_signed_scores(artifacts, "champion", champion)),
        read_scores(_signed_scores(artifacts, "challenger", challenger)),
        _metric(pipeline),
        confidence=pipeline.audit.confidence,
        resamples=pipeline.audit.resamples,
    )


def measure_best(
    artifacts: Artifacts,
    pipeline: Pipeline,
    earlier: Sequence[AuditCompleted],
    challenger: AuditCompleted | None,
    *,
    lead: float,
) -> Drop | None:
    """Measures how much worse the challenger is than `best_of` the earlier versions, which come newest
    first; None where none can be compared with it or it is better. Blocks: reads their scores. Raises
    Unavailable where the store is away.
    """
    if not earlier:
        return None
    metric = _metric(pipeline)
    mine = read_scores(_signed_scores(artifacts, "challenger", challenger))
    best = best_of(_known(artifacts, reversed(earlier)), mine, metric, lead)
    if best is None or not (_loss(metric, best, mine) or 0.0) > 0:
        return None
    confidence, resamples = pipeline.audit.confidence, pipeline.audit.resamples
    return compare(best, mine, metric, confidence=confidence, resamples=resamples)


def best_of(earlier: Iterable[Scored], mine: Scored, metric: str, lead: float) -> Scored | None:
    """Finds the best of the versions that share enough rows with `mine`: the oldest, until a later one
    leads by more than `lead`. The highest of many estimates would be as much luck as quality.
    """
    best = None
    for theirs in earlier:
        if _loss(metric, theirs, mine) is not None and (
            best is None or (_loss(metric, theirs, best) or 0.0) > lead
        ):
            best = theirs
    return best


def _known(artifacts: Artifacts, audits: Iterable[AuditCompleted]) -> Iterator[Scored]:
    """Scores that can still be read. Raises Unavailable where the store is away."""
    for audit in audits:
        try:
            yield read_scores(_signed_scores(artifacts, "earlier version", audit))
        except PenstockError as error:
            if TREATMENTS[error.kind].retry:
                raise


def _loss(metric: str, first: Scored, second: Scored) -> float | None:
    """Estimates how much worse `second` is on the rows of both; None where these are too few."""
    one, other = _common(first, second)
    return estimated_loss(metric, one, other) if len(one) >= MIN_PAIRED_ROWS else None


def _metric(pipeline: Pipeline) -> str:
    asked, target = pipeline.promotion.metric, pipeline.target.type
    return asked if target in MEASURES[asked].promotion else PROMOTION_DEFAULT[target]


def compare(
    champion: Scored, challenger: Scored, metric: str, *, confidence: float, resamples: int, seed: int = 7
) -> Drop:
    """Measures how much worse `challenger` is by `metric`. Raises Invalid where the metric does not fit
    the scores or is undefined on these rows.
    """
    _check_fits(metric, champion.scores.task)
    _check_fits(metric, challenger.scores.task)
    first, second = _common(champion, challenger)
    paired = len(first) >= MIN_PAIRED_ROWS
    if not paired:
        first, second = _thin(champion), _thin(challenger)
    interval = worse_by(
        metric,
        first,
        second,
        paired=paired,
        resamples=max(MIN_RESAMPLES, min(resamples, MAX_DRAWS // max(len(first), len(second), 1))),
        confidence=confidence,
        seed=seed,
    )
    rows = min(len(first), len(second))
    if interval is None:
        raise Invalid(
            f"{metric} cannot be compared on {rows} audit rows",
            remedy=(
                "Give the audit split more rows, choose another promotion.metric, or set `promotion:"
                " {compare: none}`"
            ),
        )
    return Drop(metric, interval, rows=rows, paired=paired)


def _common(champion: Scored, challenger: Scored) -> tuple[Scores, Scores]:
    """The rows that both were scored on and whose label has not changed between, ordered by entity."""
    _, left, right = np.intersect1d(champion.rows, challenger.rows, assume_unique=True, return_indices=True)
    same = champion.scores.labels[left] == challenger.scores.labels[right]
    # intersect1d sorts by hash, so a prefix is a random part
    left, right = left[same][:MAX_ROWS], right[same][:MAX_ROWS]
    order = np.argsort(champion.scores.units[left], kind="stable")
    return champion.scores.take(left[order]), challenger.scores.take(right[order])


def _thin(scored: Scored) -> Scores:
    """Keeps at most MAX_ROWS rows, ordered by entity."""
    kept = np.argsort(scored.rows)[:MAX_ROWS]
    return scored.scores.take(kept[np.argsort(scored.scores.units[kept], kind="stable")])


def _check_fits(metric: str, task: Task) -> None:
    if task not in MEASURES[metric].promotion:
        fitting = ", ".join(measure.name for measure in over_rows(task) if task in measure.promotion)
        raise Invalid(
            f"{metric} cannot be compared: the audit's scores hold {_HELD[task]}",
            where="promotion.metric",
            remedy=f"Use one of {fitting}",
        )


def _signed_scores(artifacts: Artifacts, whose: str, audit: AuditCompleted | None) -> bytes:
    """The scores that the audit's result names, as the signed verdict names the result: nobody
    slips in others.
    """
    if audit is None or audit.scores is None:
        raise Invalid(
            f"the {whose}'s audit kept no scores, so that the two cannot be compared", remedy=_REMEDY
        )
    try:
        named = json.loads(artifacts.read(audit.result))["scores_digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise Invalid(
            f"the {whose}'s audit result names no scores", where=audit.result.uri, remedy=_REMEDY
        ) from error
    if named != audit.scores.digest:
        raise Tampered(f"the {whose}'s scores are not those that its audit signed", where=audit.scores.uri)
    return artifacts.read(audit.scores)


def read_scores(content: bytes) -> Scored:
    """An audit's `scores` artifact (`.npz`, read without pickles). Raises Invalid where it is none.

    Arrays of N: `row` and `entity`, hashes that are alike for every model of the pipeline; `label`;
    `probability` of the positive class, or `probabilities` [N, k], and `decision` (class index, -1
    abstained); or `value` for a regression.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = dict(file)
        if len({len(values) for values in arrays.values()}) != 1:
            raise ValueError("its arrays differ in length")
        scored = Scored(arrays["row"].astype(np.bytes_), _scores(arrays))
    except Exception as error:  # numpy's, zipfile's and zlib's errors share no base
        raise Invalid(f"the audit's scores cannot be read: {error}", remedy=_REMEDY) from error
    return scored.take(np.unique(scored.rows, return_index=True)[1])


def _scores(arrays: Mapping[str, NDArray[Any]]) -> Scores:
    """Entities are numbered in the order of their hashes. Without them each row is one."""
    labels = arrays["label"].astype(np.float64)
    units = np.unique(arrays.get("entity", arrays["row"]).astype(np.bytes_), return_inverse=True)[1].astype(
        np.int64
    )
    if "value" in arrays:
        return Scores("regression", labels, units, values=arrays["value"].astype(np.float64))
    task: Task = "multiclass" if "probabilities" in arrays else "binary"
    if task == "binary":
        positive = arrays["probability"].astype(np.float64)
        probabilities = np.stack([1 - positive, positive], axis=1)
    else:
        probabilities = arrays["probabilities"].astype(np.float64)
    decisions = arrays["decision"].astype(np.int64) if "decision" in arrays else None
    return Scores(task, labels, units, probabilities=probabilities, decisions=decisions)
