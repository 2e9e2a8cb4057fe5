"""Events of training runs, `training-runs.v1`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from penstock.contracts.events.event import Digest, Event, Moment, Number, Person, PipelineName, RunId
from penstock.contracts.events.parts import (
    Artifact,
    Cost,
    Envelope,
    Imported,
    PartitionOffset,
    StudyReference,
    TrainingSet,
    check_id,
)


class _RunEvent(Event, topic="training-runs.v1", key="{run_id}"):
    run_id: RunId
    pipeline: PipelineName


class TrainingRunRequested(_RunEvent):
    """Wish for a run, under an id that its publisher chose."""

    pipeline_number: Number
    reason: Literal["requested", "new_labels"]
    # Dotted keys of the pipeline file: {"trainer.epochs": 5}.
    overrides: dict[str, JsonValue] = Field(default_factory=dict)
    # The training set waits until the feature store holds everything below these.
    min_offsets: tuple[PartitionOffset, ...] = ()
    requested_at: Moment
    requested_by: Person
    imported: Imported | None = None  # The run packages this graph and trains none
    # The training set to train on, of the same pipeline; None: one is made by the run's id.
    training_set_id: RunId | None = None
    study: StudyReference | None = None  # The study whose choice the overrides are

    def check(self) -> None:
        """Raises Invalid. All that handle it refuse the same wishes: one that the trainer turns
        away must be under way nowhere.
        """
        check_id(self.run_id, "run_id")
        if self.training_set_id is not None:
            check_id(self.training_set_id, "training_set_id")
        if self.study is not None:
            check_id(self.study.study_id, "study.study_id")


class TrainingRunStarted(_RunEvent):
    pipeline_number: Number
    training_set: TrainingSet
    # What the file left open, as chosen for the training rows: {"model.type": "boosted_trees"}.
    chosen: dict[str, JsonValue] = Field(default_factory=dict)
    chosen_because: str = ""  # Reason for the family, where the file names none
    started_at: Moment
    evidence: Envelope | None = None  # Signed by the trainer over all of this


class TrainingRunProgressed(_RunEvent):
    epoch: Number
    epochs: Number
    train_loss: float
    validation_loss: float
    validation_metric: float
    metric: str
    learning_rate: float
    elapsed_s: float


class TrainingRunCompleted(_RunEvent):
    pipeline_number: Number
    training_set: TrainingSet
    package: Artifact
    digest: Digest
    # Of the model that was kept, on the validation split. `train_loss` and `validation_loss`: log loss
    # or squared error, without the dropout, weights and penalty that an epoch's losses have.
    metrics: dict[str, float]
    completed_at: Moment
    cost: Cost | None = None
    imported: Imported | None = None
    study: StudyReference | None = None
    # Signed by the trainer over all of this; without it nothing is registered.
    evidence: Envelope | None = None


class TrainingRunFailed(_RunEvent):
    kind: str  # A kind of `errors.Kind`
    reason: str
    remedy: str  # Advice: what the user can change.
    failed_at: Moment
    cost: Cost | None = None
    evidence: Envelope | None = None  # Signed by the trainer over all of this


class TrainingRunCanceled(_RunEvent):
    canceled_at: Moment
    canceled_by: Person
    cost: Cost | None = None
    evidence: Envelope | None = None  # Signed by the trainer over all of this
