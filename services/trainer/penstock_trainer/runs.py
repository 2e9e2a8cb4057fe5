"""Runs: changes of their rows, and the facts that follow. Called with an effect;
slow work is the job's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from penstock.contracts import metrics
from penstock.contracts.errors import Conflict, Kind
from penstock.contracts.events import (
    Artifact,
    TrainingRunCanceled,
    TrainingRunCompleted,
    TrainingRunFailed,
    TrainingRunProgressed,
    TrainingRunRequested,
    TrainingRunStarted,
    TrainingSet,
)
from penstock.packages.facts import signed
from penstock.packages.keys import Keys
from penstock.runtime.changes import Changes
from penstock.runtime.metrics import counter, histogram
from penstock.runtime.patience import Awaited
from penstock.runtime.store import Effect
from penstock_trainer import store as rows
from penstock_trainer.pace import Pace
from penstock_trainer.store import (
    CANCELED,
    COMPLETED,
    CURVE,
    ENDED,
    FAILED,
    PREPARING,
    REQUESTED,
    TRAINING,
    EpochRow,
    KeyRow,
    RunRow,
)

_DURATION = histogram(metrics.RUN_DURATION)
_STEP = histogram(metrics.RUN_STEP)
_EPOCHS, _ROWS, _TIME = counter(metrics.EPOCHS), counter(metrics.RUN_ROWS), counter(metrics.RUN_TIME)
_GPU_TIME = counter(metrics.RUN_GPU_TIME)

JOB = "training"
TRACKING_JOB, STUDY_TRACKING_JOB = "tracking", "study_tracking"


class Runs:
    def __init__(self, clock: Callable[[], datetime], folder: Path, awaited: Awaited, keys: Keys) -> None:
        """`folder`: working files, one folder a run. `keys`: what runs are signed with."""
        self._keys = keys
        self._clock = clock
        self._folder = folder
        self._awaited = awaited
        self.changes = Changes()

    # -- wishes ------------------------------------------------------------------------------------

    def request(self, requested: TrainingRunRequested, key: str, effect: Effect) -> str:
        """Records the wish with its job, and publishes it; returns the run's id, the earlier one's
        where `key` was used before.

        Raises Conflict where the key was used for another pipeline.
        """
        if key:
            if known := effect.session.get(KeyRow, key):
                earlier = rows.run(effect.session, known.run_id)
                if earlier.pipeline != requested.pipeline:
                    raise Conflict(
                        f"the key stands for run {earlier.run_id} of `{earlier.pipeline}`",
                        where="idempotency_key",
                    )
                return known.run_id
            effect.session.add(KeyRow(key=key, run_id=requested.run_id))
        self._record(requested, effect)
        effect.publish(requested)
        effect.enqueue(JOB, requested.run_id, requested)
        return requested.run_id

    def accept(self, requested: TrainingRunRequested, effect: Effect) -> None:
        """Records a wish that another program published, the feature store's trigger say, with its
        job. A wish of this service comes back too, and changes nothing. Raises Invalid.
        """
        requested.check()
        if effect.session.get(RunRow, requested.run_id) is None:
            self._record(requested, effect)
        if rows.run(effect.session, requested.run_id).state == REQUESTED:
            effect.enqueue(JOB, requested.run_id, requested)

    def cancel(self, run_id: str, by: str, effect: Effect) -> None:
        """Raises NotFound, or Conflict where the run has ended otherwise; canceling again changes nothing."""
        run = rows.run(effect.session, run_id)
        if run.state == CANCELED:
            return
        if run.state in ENDED:
            raise Conflict(f"run {run_id} is {run.state} already")
        effect.cancel(JOB, run_id)
        ended_at = self._end(run, CANCELED, effect)
        canceled = TrainingRunCanceled(
            run_id=run_id, pipeline=run.pipeline, canceled_at=ended_at, canceled_by=by, cost=run.cost
        )
        effect.publish(signed(canceled, self._keys.signer("trainer")))

    # -- what the job says -------------------------------------------------------------------------

    def progressed(self, run_id: str, message: dict[str, Any], effect: Effect) -> None:
        """Applies progress. After a crash the next attempt may tell the same again; each is applied once."""
        run = rows.run(effect.session, run_id)
        if run.state in ENDED:
            return
        match message:
            case {"attempt": attempt}:
                run.attempts, run.state = attempt, PREPARING
                run.started_at = run.started_at or self._clock()
                # The attempt before may have waited.
                effect.after_commit(lambda: self._awaited.goes_on(run_id))
            case {"waits_for": peer, "why": why}:
                effect.after_commit(lambda: self._awaited.waits_for(run_id, peer, why))
            case {"has": _}:
                effect.after_commit(lambda: self._awaited.goes_on(run_id))
            case {"stage": stage}:
                run.state = stage
            case {"training_set": training_set, "epochs": epochs, **choices}:
                run.epochs_planned = epochs
                self._started(run, TrainingSet.model_validate(training_set), choices, effect)
            case {"workers": workers, "because": because}:
                before = run.pace or Pace()  # its epochs are told again, and not counted again
                run.pace = before.model_copy(update={"workers": workers, "because": because})
            case {"epoch": epoch}:
                self._epoch(run, epoch, effect)
        effect.after_commit(lambda: self.changes.tell(run_id))

    def completed(self, run_id: str, result: dict[str, Any], effect: Effect) -> None:
        run = rows.run(effect.session, run_id)
        assert run.training_set is not None
        ended_at = self._end(run, COMPLETED, effect)
        completed = TrainingRunCompleted(
            run_id=run_id,
            pipeline=run.pipeline,
            pipeline_number=run.pipeline_number,
            training_set=run.training_set,
            package=Artifact.model_validate(result["package"]),
            digest=result["digest"],
            metrics=result["metrics"],
            completed_at=ended_at,
            cost=run.cost,
            imported=run.imported,
            study=run.study,
        )
        run.digest, run.metrics = completed.digest, completed.metrics
        effect.publish(signed(completed, self._keys.signer("trainer")))
        epochs = rows.epochs(effect.session, run_id)
        effect.enqueue(TRACKING_JOB, run_id, _told(run, completed, epochs, result["parameters"]))

    def failed(self, run_id: str, kind: Kind, message: str, remedy: str, effect: Effect) -> None:
        run = rows.run(effect.session, run_id)
        run.failure, run.remedy = message, remedy
        ended_at = self._end(run, FAILED, effect)
        failed = TrainingRunFailed(
            run_id=run_id,
            pipeline=run.pipeline,
            kind=kind.value,
            reason=message,
            remedy=remedy,
            failed_at=ended_at,
            cost=run.cost,
        )
        effect.publish(signed(failed, self._keys.signer("trainer")))

    # -- what a run leaves -------------------------------------------------------------------------

    def sweep(self, session: Session) -> None:
        """Removes, at start, the working files of runs that have ended. They hold people's data."""
        for folder in self._folder.glob("*"):
            run = session.get(RunRow, folder.name)
            if run is None or run.state in ENDED:
                shutil.rmtree(folder, ignore_errors=True)

    # -- parts -------------------------------------------------------------------------------------

    def _record(self, requested: TrainingRunRequested, effect: Effect) -> None:
        effect.session.add(
            RunRow(
                run_id=requested.run_id,
                pipeline=requested.pipeline,
                pipeline_number=requested.pipeline_number,
                state=REQUESTED,
                reason=requested.reason,
                requested_by=requested.requested_by,
                requested_at=requested.requested_at,
                imported=requested.imported,
                study=requested.study,
            )
        )
        effect.session.flush()
        effect.after_commit(lambda: self.changes.tell(requested.run_id))

    def _started(
        self, run: RunRow, training_set: TrainingSet, choices: dict[str, Any], effect: Effect
    ) -> None:
        run.state = TRAINING
        if run.training_set is None or run.training_set.evidence is None:  # begun before sets were signed
            run.training_set = training_set
            run.chosen, run.chosen_because = choices.get("chosen"), choices.get("chosen_because")
            started = TrainingRunStarted(
                run_id=run.run_id,
                pipeline=run.pipeline,
                pipeline_number=run.pipeline_number,
                training_set=training_set,
                chosen=run.chosen or {},
                chosen_because=run.chosen_because or "",
                started_at=self._clock(),
            )
            effect.publish(signed(started, self._keys.signer("trainer")))

    def _epoch(self, run: RunRow, epoch: dict[str, Any], effect: Effect) -> None:
        if effect.session.get(EpochRow, (run.run_id, epoch["number"])) is not None:
            return
        run.pace = (run.pace or Pace()).at(epoch)
        curve = {name: epoch[name] for name in CURVE}
        effect.session.add(EpochRow(run_id=run.run_id, pace=run.pace, **curve))
        told = {name: epoch[name] for name in (*CURVE[1:], "epochs")} | {"epoch": epoch["number"]}
        effect.publish(TrainingRunProgressed(run_id=run.run_id, pipeline=run.pipeline, **told))
        effect.after_commit(lambda: _count(run.pipeline, epoch))

    def _end(self, run: RunRow, state: str, effect: Effect) -> datetime:
        """Ends the run now; its working files go with the commit."""
        ended_at = self._clock()
        run.state, run.ended_at = state, ended_at
        run.cost = effect.spent(JOB, run.run_id)

        def forget() -> None:
            # A process that is being killed may still write: see sweep.
            shutil.rmtree(self._folder / run.run_id, ignore_errors=True)
            self._awaited.goes_on(run.run_id)
            self.changes.tell(run.run_id)
            took = (ended_at - run.requested_at).total_seconds()
            _DURATION.record(took, {"pipeline": run.pipeline, "outcome": state})

        effect.after_commit(forget)
        return ended_at


def _count(pipeline: str, epoch: dict[str, Any]) -> None:
    _EPOCHS.add(1, {"pipeline": pipeline})
    if took := epoch.get("took_s"):
        _ROWS.add(epoch["rows"], {"pipeline": pipeline})
        _STEP.record(epoch.get("step_s", 0.0), {"pipeline": pipeline})
        waits = {"data": epoch["data_s"], "communication": epoch["communication_s"]}
        for part, seconds in {**waits, "compute": took - sum(waits.values())}.items():
            _TIME.add(seconds, {"pipeline": pipeline, "part": part})
        if used := epoch.get("gpu_s"):
            _GPU_TIME.add(used, {"pipeline": pipeline})


def _told(
    run: RunRow, completed: TrainingRunCompleted, epochs: list[EpochRow], parameters: dict[str, str]
) -> dict[str, Any]:
    """Facts of the run for MLflow."""
    return {
        "run_id": run.run_id,
        "pipeline": run.pipeline,
        "started_at": (run.started_at or run.requested_at).timestamp(),
        "ended_at": completed.completed_at.timestamp(),
        "parameters": parameters,
        "metrics": completed.metrics,
        "epochs": [
            {name: getattr(epoch, name) for name in CURVE}
            | {"pace": epoch.pace.figures if epoch.pace else {}}
            for epoch in epochs
        ],
        "tags": {
            "penstock.run": run.run_id,
            "penstock.digest": completed.digest,
            "penstock.pipeline_number": str(run.pipeline_number),
            "penstock.training_set": completed.training_set.fingerprint,
            "penstock.requested_by": run.requested_by,
            **({"penstock.study": run.study.study_id} if run.study else {}),
        },
    }
