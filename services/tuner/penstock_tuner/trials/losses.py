"""The validation loss by groups of entities, so that two trials of a study can be compared pair by pair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock.measures.scores import Scores
from penstock.modelkit import metrics
from penstock_tuner.trials.folds import dealt

GROUPS = 50


def losses_by_group(scores: Scores, entities: Sequence[str]) -> tuple[float, ...]:
    """Mean loss of each group's rows: `GROUPS` of them, or one an entity where there are fewer.

    `entities`: of each row. The groups follow from the entities alone, so they are the same for all
    trials of a study.
    """
    group = dealt(entities, np.zeros(len(entities)), GROUPS)
    return tuple(_loss(scores.take(np.flatnonzero(group == one))) for one in range(int(group.max()) + 1))


def _loss(scores: Scores) -> float:
    answers = scores.said if scores.classifies else scores.said[:, None]
    return metrics.loss(scores.task, scores.labels, answers)
