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
from penstock.contracts.measures import MEASURES, PROMOTION_DEFAULT
from penstock.contracts.pipeline import Pipeline
from penstock.runtime.artifacts import Artifacts
from penstock_model_registry.promotion import Drop

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
        identities = arrays["row"].astype(np.bytes_)
        scored = Scored(
            rows=identities,
            entities=arrays["entity"].astype(np.bytes_) if "entity" in arrays else identities,
            labels=arrays["label"].astype(np.float64),
            probabilities=_probabilities(arrays),
            values=arrays["value"].astype(np.float64) if "value" in arrays else None,
            decisions=arrays["decision"].astype(np.int64) if "decision" in arrays else None,
        )
    except Exception as error:  # numpy's, zipfile's and zlib's errors share no base
        raise Invalid(f"the audit's scores cannot be read: {error}", remedy=_REMEDY) from error
    return scored.take(np.unique(identities, return_index=True)[1])


def _probabilities(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float64] | None:
    import numpy as np

    if "probability" in arrays:
        positive = arrays["probability"].astype(np.float64)
        return np.stack([1 - positive, positive], axis=1)
    return arrays["probabilities"].astype(np.float64) if "probabilities" in arrays else None
