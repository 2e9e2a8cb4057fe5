"""What the audits wrote down about champion and challenger, read and compared. Blocking; numpy and pyarrow are imported at first use."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

from penstock.contracts.errors import Invalid, Tampered
from penstock.contracts.events import AuditCompleted
from penstock.contracts.pipeline import Pipeline
from penstock.runtime.artifacts import Artifacts
from penstock_model_registry.promotion import Drop

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from penstock_model_registry.comparison import Scored

FITTING = {
    "binary": ("auroc", "accuracy", "log_loss", "brier"),
    "multiclass": ("log_loss", "accuracy"),
    "regression": ("rmse", "mae"),
}
_REMEDY = "Set `promotion: {compare: none}` in the pipeline file, apply it and promote the version by hand"


def metric_of(pipeline: Pipeline) -> str:
    """The policy's metric, or the first that fits the target where the policy leaves it at its default."""
    fitting = FITTING[pipeline.target.type]
    return pipeline.promotion.metric if pipeline.promotion.metric in fitting else fitting[0]


def measure_drop(artifacts: Artifacts, pipeline: Pipeline, champion: AuditCompleted | None, challenger: AuditCompleted | None) -> Drop:
    """How much worse the challenger is. Raises Invalid where that cannot be said, NotFound and Tampered as the scores are."""
    from penstock_model_registry.comparison import compare

    return compare(
        read_scores(_signed_scores(artifacts, "champion", champion)),
        read_scores(_signed_scores(artifacts, "challenger", challenger)),
        metric_of(pipeline),
        confidence=pipeline.audit.confidence,
        resamples=pipeline.audit.resamples,
    )


def _signed_scores(artifacts: Artifacts, whose: str, audit: AuditCompleted | None) -> bytes:
    """The scores that the audit's result names, as the signed verdict names the result: nobody slips in others."""
    if audit is None or audit.scores is None:
        raise Invalid(f"the {whose}'s audit kept no scores, so that the two cannot be compared", remedy=_REMEDY)
    try:
        named = json.loads(artifacts.read(audit.result))["scores_digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise Invalid(f"the {whose}'s audit result names no scores", where=audit.result.uri, remedy=_REMEDY) from error
    if named != audit.scores.digest:
        raise Tampered(f"the {whose}'s scores are not those that its audit signed", where=audit.scores.uri)
    return artifacts.read(audit.scores)


def read_scores(content: bytes) -> Scored:
    """An audit's `scores` artifact (Parquet). Raises Invalid where it is none.

    Columns: `row` and `entity`, hashes that are alike for every model of the pipeline; `label`; `probability` of the positive class, or
    `probabilities` by class, and `decision` (class index, -1 abstained); or `value` for a regression.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from penstock_model_registry.comparison import Scored

    try:
        table = pq.read_table(io.BytesIO(content))
        names = set(table.column_names)

        def column(name: str) -> object:
            return table.column(name).to_numpy(zero_copy_only=False)

        identities = np.asarray(column("row")).astype(np.str_)
        kept = np.unique(identities, return_index=True)[1]
        scored = Scored(
            rows=identities,
            entities=np.asarray(column("entity")).astype(np.str_) if "entity" in names else identities,
            labels=np.asarray(column("label"), dtype=np.float64),
            probabilities=_probabilities(table),
            values=np.asarray(column("value"), dtype=np.float64) if "value" in names else None,
            decisions=np.asarray(column("decision"), dtype=np.int64) if "decision" in names else None,
        )
        return scored.take(kept)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise Invalid(f"the audit's scores cannot be read: {error}", remedy=_REMEDY) from error


def _probabilities(table: pa.Table) -> NDArray[np.float64] | None:
    import numpy as np

    if "probability" in table.column_names:
        positive = table.column("probability").to_numpy().astype(np.float64)
        return np.stack([1 - positive, positive], axis=1)
    if "probabilities" in table.column_names:
        return np.asarray(table.column("probabilities").to_pylist(), dtype=np.float64)
    return None
