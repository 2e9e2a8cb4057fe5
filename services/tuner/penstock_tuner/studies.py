"""Studies: changes of their rows, and the facts that follow. Called with an effect; slow work is the
job's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session
from ulid import ULID

from penstock.contracts import metrics
from penstock.contracts.errors import Conflict, Kind
from penstock.contracts.events import (
    Cost,
    StudyReference,
    TrainingRunRequested,
    TrainingSet,
    TuningStudyCanceled,
    TuningStudyCompleted,
    TuningStudyFailed,
    TuningStudyRequested,
    TuningStudyStarted,
    TuningTrialEnded,
)
from penstock.runtime.changes import Changes
from penstock.runtime.metrics import counter, histogram
from penstock.runtime.patience import Awaited
from penstock.runtime.store import Effect
from penstock_tuner import store as rows
from penstock_tuner.section import check, extended
from penstock_tuner.store import (
    CANCELED,
    COMPLETED,
    ENDED,
    FAILED,
    PREPARING,
    REQUESTED,
    RUNNING,
    SEARCHING,
    KeyRow,
    StudyRow,
    TrialRow,
)

_DURATION = histogram(metrics.STUDY_DURATION)
_TRIALS = counter(metrics.TRIALS)

JOB = "study"


class Studies:
    def __init__(self, clock: Callable[[], datetime], folder: Path, awaited: Awaited) -> None:
        """`folder`: working files, one folder a study."""
        self._clock = clock
        self._folder = folder
        self._awaited = awaited
        self.changes = Changes()

    # -- wishes ------------------------------------------------------------------------------------

    def request(self, requested: TuningStudyRequested, key: str, effect: Effect) -> str:
        """Records the wish with its job, and publishes it; returns the study's id, the earlier one's
        where `key` was used before.

        Raises Conflict where the key was used for another pipeline.
        """
        if key:
            if known := effect.session.get(KeyRow, key):
                earlier = rows.study(effect.session, known.study_id)
                if earlier.pipeline != requested.pipeline:
                    raise Conflict(
                        f"the key stands for study {earlier.study_id} of `{earlier.pipeline}`",
                        where="idempotency_key",
                    )
                return known.study_id
            effect.session.add(KeyRow(key=key, study_id=requested.study_id))
        effect.publish(requested)
        self.accept(requested, effect)
        return requested.study_id

    def accept(self, requested: TuningStudyRequested, effect: Effect) -> None:
        """Records a wish with its job, another program's say. A wish of this service comes back too,
        and changes nothing. Raises Invalid.
        """
        requested.check()
        check(requested.tuner)
        if effect.session.get(StudyRow, requested.study_id) is not None:
            return
        study = StudyRow(
            study_id=requested.study_id,
            pipeline=requested.pipeline,
            pipeline_number=requested.pipeline_number,
            state=REQUESTED,
            requested=requested,
        )
        effect.session.add(study)
        effect.session.flush()
        self._enqueue(study, effect)

    def extend(self, study_id: str, trials: int, time_s: float, effect: Effect) -> None:
        """Has an ended study go on with what it has tried, for so many trials or seconds more. Raises
        NotFound, Invalid, or Conflict where it has not ended.
        """
        study = rows.study(effect.session, study_id)
        if study.state not in ENDED:
            raise Conflict(f"study {study_id} has not ended, it is {study.state}")
        tried = rows.ended_trials(effect.session, study_id)
        longer = extended(study.requested.tuner or {}, tried, study.spent_s, trials, time_s)
        study.requested = study.requested.model_copy(update={"tuner": longer})
        study.state, study.extensions = REQUESTED, study.extensions + 1
        study.ended_at = study.conclusion = study.failure = study.remedy = None
        study.rule = study.looks = None
        self._enqueue(study, effect)

    def cancel(self, study_id: str, by: str, effect: Effect) -> None:
        """Ends it where it is; its ended trials stay. Raises NotFound, or Conflict where the study has
        ended otherwise; canceling again changes nothing.
        """
        study = rows.study(effect.session, study_id)
        if study.state == CANCELED:
            return
        if study.state in ENDED:
            raise Conflict(f"study {study_id} is {study.state} already")
        effect.cancel(JOB, job_of(study))
        ended_at = self._end(study, CANCELED, effect)
        canceled = TuningStudyCanceled(
            study_id=study_id, pipeline=study.pipeline, canceled_at=ended_at, canceled_by=by, cost=study.cost
        )
        effect.publish(canceled)

    # -- what the job says -------------------------------------------------------------------------

    def progressed(self, job_id: str, message: dict[str, Any], effect: Effect) -> None:
        """Applies progress. After a crash the next attempt may tell the same again; each is applied once."""
        study = rows.study(effect.session, study_of(job_id))
        if study.state in ENDED:
            return
        study.spent_s = max(study.spent_s, message.get("spent_s", 0.0))
        match message:
            case {"attempt": _}:
                study.attempts, study.state = study.attempts + 1, PREPARING
                study.started_at = study.started_at or self._clock()
                # The attempt before may have waited.
                effect.after_commit(lambda: self._awaited.goes_on(job_id))
            case {"waits_for": peer, "why": why}:
                effect.after_commit(lambda: self._awaited.waits_for(job_id, peer, why))
            case {"has": _}:
                effect.after_commit(lambda: self._awaited.goes_on(job_id))
            case {"training_set": training_set, "tuner": tuner}:
                study.requested = study.requested.model_copy(update={"tuner": tuner})
                self._started(study, TrainingSet.model_validate(training_set), effect)
            case {"started": trial}:
                study.state = SEARCHING
                begun = TrialRow(study_id=study.study_id, state=RUNNING, started_at=self._clock(), **trial)
                effect.session.merge(begun)
            case {"climbed": trial}:
                rows.trial(effect.session, study.study_id, trial["number"]).rungs = trial["rungs"]
            case {"ended": trial}:
                self._trial_ended(study, trial, effect)
                study.best = message["best"]
        effect.after_commit(lambda: self.changes.tell(study.study_id))

    def completed(self, job_id: str, result: dict[str, Any], effect: Effect) -> None:
        """Ends the study, and asks for the run of the trial that was chosen unless it is the file's own, or
        had its run before the study was extended. Raises Conflict where that trial's end could not be
        stored.
        """
        study = rows.study(effect.session, study_of(job_id))
        study.best, study.conclusion = result["best"], result["conclusion"]
        study.importance, study.rule, study.looks = result["importance"], result["rule"], result["looks"]
        trials = [trial for trial in rows.trials(effect.session, study.study_id) if trial.state != RUNNING]
        if study.best:
            best = next((trial for trial in trials if trial.number == study.best), None)
            if best is None:
                raise Conflict(
                    f"the end of trial {study.best}, which was chosen, could not be stored",
                    remedy="Look for job_progress_lost in the service's log, then extend the study",
                )
            if study.run_trial == study.best:
                study.conclusion = f"{result['conclusion']}; run {study.run_id} has its values already"
            else:
                study.run_id = self._request_run(study, best, len(trials), result, effect)
        study.run_trial = study.best or None
        study.run_id = study.run_id if study.best else None
        ended_at = self._end(study, COMPLETED, effect)
        effect.publish(
            TuningStudyCompleted(
                study_id=study.study_id,
                pipeline=study.pipeline,
                best=study.best,
                run_id=study.run_id,
                rule=result["rule"],
                trials=len(trials),
                looks=result["looks"],
                completed_at=ended_at,
                cost=study.cost,
            )
        )

    def failed(self, job_id: str, kind: Kind, message: str, remedy: str, effect: Effect) -> None:
        study = rows.study(effect.session, study_of(job_id))
        study.failure, study.remedy = message, remedy
        ended_at = self._end(study, FAILED, effect)
        effect.publish(
            TuningStudyFailed(
                study_id=study.study_id,
                pipeline=study.pipeline,
                kind=kind.value,
                reason=message,
                remedy=remedy,
                failed_at=ended_at,
                cost=study.cost,
            )
        )

    # -- what a study leaves -----------------------------------------------------------------------

    def sweep(self, session: Session) -> None:
        """Removes, at start, the working files of studies that have ended. They hold people's data."""
        for folder in self._folder.glob("*"):
            study = session.get(StudyRow, folder.name)
            if study is None or study.state in ENDED:
                shutil.rmtree(folder, ignore_errors=True)

    # -- parts -------------------------------------------------------------------------------------

    def _enqueue(self, study: StudyRow, effect: Effect) -> None:
        effect.enqueue(JOB, job_of(study), study.requested)
        effect.after_commit(lambda: self.changes.tell(study.study_id))

    def _started(self, study: StudyRow, training_set: TrainingSet, effect: Effect) -> None:
        if study.training_set is None:
            study.training_set = training_set
            effect.publish(
                TuningStudyStarted(
                    study_id=study.study_id,
                    pipeline=study.pipeline,
                    pipeline_number=study.pipeline_number,
                    training_set=training_set,
                    started_at=self._clock(),
                )
            )

    def _trial_ended(self, study: StudyRow, ended: dict[str, Any], effect: Effect) -> None:
        trial = rows.trial(effect.session, study.study_id, ended.pop("number"))
        if trial.state != RUNNING:
            return
        for name, value in ended.items():
            setattr(trial, name, value)
        trial.ended_at = self._clock()
        effect.publish(
            TuningTrialEnded(
                study_id=study.study_id,
                pipeline=study.pipeline,
                trial=trial.number,
                state=trial.state,
                choices=trial.choices,
                overrides=trial.overrides,
                metrics=trial.metrics,
                values=tuple(trial.objectives or ()),
                weights=trial.weights,
                epochs=trial.epochs,
                reason=trial.failure or "",
                ended_at=trial.ended_at,
                cost=Cost(processor_s=trial.processor_s, peak_memory=trial.memory),
            )
        )
        outcome = trial.state
        effect.after_commit(lambda: _TRIALS.add(1, {"pipeline": study.pipeline, "outcome": outcome}))

    def _request_run(
        self, study: StudyRow, best: TrialRow, trials: int, result: dict[str, Any], effect: Effect
    ) -> str:
        assert best.weights is not None
        requested = TrainingRunRequested(
            run_id=str(ULID()),
            pipeline=study.pipeline,
            pipeline_number=study.pipeline_number,
            reason="requested",
            overrides=best.overrides,
            requested_at=self._clock(),
            requested_by=study.requested.requested_by,
            training_set_id=study.study_id,
            study=StudyReference(
                study_id=study.study_id,
                trial=best.number,
                weights=best.weights,
                trials=trials,
                looks=result["looks"],
                rule=result["rule"],
            ),
        )
        effect.publish(requested)
        return requested.run_id

    def _end(self, study: StudyRow, state: str, effect: Effect) -> datetime:
        """Ends the study now; trials that have not ended are forgotten, and its working files go with
        the commit.
        """
        ended_at = self._clock()
        rows.forget_running(effect.session, study.study_id)
        job_id = job_of(study)
        study.state, study.ended_at = state, ended_at
        spent = (study.cost or Cost()) + effect.spent(JOB, job_id)
        # The job's cost is without that of trials that were killed with it, or that ran elsewhere.
        of_trials = rows.processor_s(effect.session, study.study_id)
        study.cost = spent.model_copy(update={"processor_s": max(spent.processor_s, of_trials)})

        def forget() -> None:
            # A process that is being killed may still write: see sweep.
            shutil.rmtree(self._folder / study.study_id, ignore_errors=True)
            self._awaited.goes_on(job_id)
            self.changes.tell(study.study_id)
            took = (ended_at - study.requested.requested_at).total_seconds()
            _DURATION.record(took, {"pipeline": study.pipeline, "outcome": state})

        effect.after_commit(forget)
        return ended_at


def job_of(study: StudyRow) -> str:
    """Id of the study's newest job: a job is enqueued once, so each extension has one of its own."""
    return f"{study.study_id}.{study.extensions}"


def study_of(job_id: str) -> str:
    return job_id.partition(".")[0]
