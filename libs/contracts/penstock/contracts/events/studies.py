"""Events of tuning studies, `tuning-studies.v1`: one an ended trial, none an epoch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from penstock.contracts.events.event import Count, Digest, Event, Moment, Number, Person, PipelineName, RunId
from penstock.contracts.events.parts import Cost, PartitionOffset, TrainingSet, check_id


class _StudyEvent(Event, topic="tuning-studies.v1", key="{study_id}"):
    study_id: RunId
    pipeline: PipelineName


class TuningStudyRequested(_StudyEvent):
    """Wish for a study, under an id that its publisher chose: its training set is made by that id, so
    `check` holds it to what an id of a run may be.
    """

    pipeline_number: Number
    # The section `tuner` to go by, where it is not the applied file's
    tuner: dict[str, JsonValue] | None = None
    # An ended study of the same split, whose trials this one knows from its start
    continues: RunId | None = None
    # The training set waits until the feature store holds everything below these.
    min_offsets: tuple[PartitionOffset, ...] = ()
    requested_at: Moment
    requested_by: Person

    def check(self) -> None:
        """Raises Invalid."""
        check_id(self.study_id, "study_id")


class TuningStudyStarted(_StudyEvent):
    pipeline_number: Number
    training_set: TrainingSet
    started_at: Moment


class TuningTrialEnded(_StudyEvent):
    trial: Number  # From 0, which has the file's own values
    state: Literal["complete", "pruned", "failed"]
    # What the search decided, one entry a parameter of the space; and as a run's overrides.
    choices: dict[str, JsonValue]
    overrides: dict[str, JsonValue]
    # Of the kept epoch's weights; measures on the validation rows. Empty where the trial failed.
    metrics: dict[str, float] = Field(default_factory=dict)
    # The objectives, each less is better; empty where the trial is not complete.
    values: tuple[float, ...] = ()
    weights: Digest | None = None
    epochs: Count = 0
    reason: str = ""  # Sentence on why it failed or was pruned
    ended_at: Moment
    cost: Cost | None = None


class TuningStudyCompleted(_StudyEvent):
    best: Number | None  # The trial that was chosen; None where none could be
    run_id: RunId | None  # The run that was asked for with it; None: nothing is better than the file
    rule: str  # How it was chosen, in words
    trials: Number
    looks: Count  # Evaluations on the validation rows that the choice was made from
    completed_at: Moment
    cost: Cost | None = None


class TuningStudyFailed(_StudyEvent):
    kind: str  # A kind of `errors.Kind`
    reason: str
    remedy: str  # Advice: what the user can change.
    failed_at: Moment
    cost: Cost | None = None


class TuningStudyCanceled(_StudyEvent):
    canceled_at: Moment
    canceled_by: Person
    cost: Cost | None = None
