"""Result of a trial."""

from __future__ import annotations

from pydantic import BaseModel, FiniteFloat


class Measured(BaseModel, frozen=True):
    """Figures of a trial that ended well.

    `metrics`: `train_loss` and `validation_loss` (plain: no dropout, class weights or penalty), the
    validation split's measures by name, differences between groups as `MEASURE.GROUP`, and
    `latency_us`, the median time of one row in ONNX Runtime; of an ensemble `members`, the number of
    those that count. With folds, all but these two are of the folds. `losses`: the validation loss by
    groups of entities, the same groups in every trial of a study. `weights`: digest of the model that
    was fitted on the study's own train part; `epochs`: of that fit; `memory`: the most that the
    trial's process held, in bytes.
    """

    metrics: dict[str, FiniteFloat]
    losses: tuple[FiniteFloat, ...] = ()
    weights: str
    epochs: int
    seconds: float
    processor_s: float
    memory: int
