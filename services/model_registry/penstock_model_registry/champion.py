"""Reads and compares the scores that the audits of champion and challenger kept. Blocking; numpy is
imported at first use.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from penstock.contracts.errors import Invalid, Tampered
from penstock.contracts.events import AuditCompleted
from penstock.contracts.measures import MEASURES, PROMOTION_DEFAULT, Task
from penstock.contracts.pipeline import Pipeline
from penstock.runtime.artifacts import Artifacts
from penstock_model_registry.promotion import Drop

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from penstock.measures.scores import Scores
    from penstock_model_registry.comparison import Scored

_REMEDY = "Set `promotion: {compare: none}` in the pipeline file, apply it and promote the version by hand"


def metric_of(pipeline: Pipeline) -> str:
    """Returns the policy's metric, or the target's default where that one does not fit the target."""
    asked, target = pipeline.promotion.metric, pipeline.target.type
    return asked if target in MEASURES[asked].promotion else PROMOTION_DEFAULT[target]


def measure_drop(
    artifacts: Artifacts,
    pipeline: Pipeline,
    champion: AuditCompleted | None,
    challenger: AuditCompleted | None,
) -> Drop:
    """Measures how much worse the challenger is. Raises Invalid where that cannot be said, NotFound and
    Tampered as the scores are.
    """
    from penstock_model_registry.comparison import compare

    return compare(
        read_scores(_signed_scores(artifacts, "champion", champion)),
        read_scores(_signed_scores(artifacts, "challenger", challenger)),
        metric_of(pipeline),
        confidence=pipeline.audit.confidence,
        resamples=pipeline.audit.resamples,
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
    import numpy as np

    from penstock_model_registry.comparison import Scored

    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = dict(file)
        if len({len(values) for values in arrays.values()}) != 1:
            raise ValueError("its arrays differ in length")
        rows = arrays["row"].astype(np.bytes_)
        scored = Scored(rows, _scores(arrays, rows))
    except Exception as error:  # numpy's, zipfile's and zlib's errors share no base
        raise Invalid(f"the audit's scores cannot be read: {error}", remedy=_REMEDY) from error
    return scored.take(np.unique(rows, return_index=True)[1])


def _scores(arrays: Mapping[str, NDArray[Any]], rows: NDArray[np.bytes_]) -> Scores:
    """Entities are numbered in the order of their hashes. Without them each row is one."""
    import numpy as np

    from penstock.measures.scores import Scores

    labels = arrays["label"].astype(np.float64)
    units = np.unique(arrays.get("entity", rows).astype(np.bytes_), return_inverse=True)[1].astype(np.int64)
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
