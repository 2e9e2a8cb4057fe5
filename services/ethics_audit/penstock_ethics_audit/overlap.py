"""Rows of this audit that earlier audits of the pipeline had judged models by, read from their scores."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import structlog
from numpy.typing import NDArray

from penstock.contracts.errors import Invalid, NotFound, Tampered
from penstock.runtime.artifacts import Artifacts
from penstock_ethics_audit.looks import Earlier, Looks, Rule, looked
from penstock_ethics_audit.split import Split, row_names

log = structlog.get_logger(__name__)

MOST_BYTES = 256 << 20  # of scores that are read, the newest first


def looks(split: Split, earlier: Sequence[Earlier], artifacts: Artifacts) -> Looks:
    """Counts looks at the split's rows. `earlier`: oldest first. Raises Unavailable."""
    rows, left = np.sort(row_names(split)), MOST_BYTES
    found: list[tuple[int, tuple[Rule, ...]]] = []
    for audit in reversed(earlier):
        if (left := left - audit.scores.size) < 0:
            break
        try:
            with np.load(io.BytesIO(artifacts.read(audit.scores)), allow_pickle=False) as scores:
                found.append((_shared(rows, scores["row"]), audit.rules))
        except (Invalid, NotFound, Tampered) as error:  # Invalid: it lies in a store that is no more asked
            log.warning("scores_not_read", where=audit.scores.uri, why=str(error))
    return looked(len(split), found[::-1], unread=len(earlier) - len(found))


def _shared(rows: NDArray[np.bytes_], others: NDArray[np.bytes_]) -> int:
    """Counts names of `rows`, which are sorted, that stand among `others`."""
    others = np.sort(others)  # neighbours are looked for where the last one was: four times as fast
    places = np.minimum(np.searchsorted(rows, others), len(rows) - 1)
    return len(np.unique(places[rows[places] == others]))
