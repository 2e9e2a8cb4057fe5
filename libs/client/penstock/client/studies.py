"""Tuning studies: create, watch, list, cancel, extend."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

from penstock.client.connection import Connection
from penstock.client.events import Offset
from penstock.cost.v1 import cost_pb2
from penstock.tuner.v1 import tuner_pb2 as tuner
from penstock.tuner.v1 import tuner_pb2_grpc

ENDED = frozenset({tuner.Study.STATE_COMPLETED, tuner.Study.STATE_FAILED, tuner.Study.STATE_CANCELED})


class Studies:
    """`penstock.studies`: tuning."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = tuner_pb2_grpc.TunerServiceStub(connection.channel)

    def create(
        self,
        pipeline: str,
        *,
        trials: int = 0,
        time: timedelta = timedelta(0),
        after: Iterable[Offset] = (),
        continues: str = "",
        by: str = "",
        key: str = "",
    ) -> tuner.Study:
        """Asks for a study. `trials` and `time` take the place of the file's budget; its training set
        waits for everything below `after`; it knows the trials of the study `continues`, which must
        have split its rows the same way.

        The same `key` gives the same study again. Raises NotFound, Invalid.
        """
        request = tuner.CreateStudyRequest(
            pipeline=pipeline,
            trials=trials,
            time_s=time.total_seconds(),
            min_offsets=[
                tuner.PartitionOffset(topic=o.topic, partition=o.partition, offset=o.offset) for o in after
            ],
            requested_by=by,
            idempotency_key=key,
            continues=continues,
        )
        return self._connection.call(self._stub.CreateStudy, request)

    def get(self, study_id: str) -> tuner.Study:
        """The study as it is now, its trials included. Raises NotFound."""
        return self._connection.call(self._stub.GetStudy, tuner.GetStudyRequest(study_id=study_id))

    def list(self, pipeline: str = "", *, limit: int = 50) -> list[tuner.Study]:
        """Newest first, without their trials."""
        request = tuner.ListStudiesRequest(pipeline=pipeline, limit=limit)
        return list(self._connection.call(self._stub.ListStudies, request).studies)

    def costs(self, pipeline: str = "", *, month: str = "") -> Sequence[cost_pb2.MonthlyCost]:
        """Sums the costs of studies that ended, by pipeline and month (`2026-11`, UTC), newest first."""
        request = cost_pb2.SumCostsRequest(pipeline=pipeline, month=month)
        return self._connection.call(self._stub.SumCosts, request).months

    def watch(self, study_id: str, *, timeout: float | None = None) -> Iterator[tuner.Study]:
        """The study as it is, then each change, until it has ended."""
        request = tuner.WatchStudyRequest(study_id=study_id, changes_only=True)
        trials: dict[int, tuner.Trial] = {}
        for found in self._connection.stream(self._stub.WatchStudy, request, timeout=timeout):
            trials |= {trial.number: trial for trial in found.trials}
            if found.state in ENDED:  # what still ran then is forgotten
                trials = {n: one for n, one in trials.items() if one.state != tuner.Trial.STATE_RUNNING}
            del found.trials[:]
            found.trials.extend(trials[number] for number in sorted(trials))
            yield found

    def cancel(self, study_id: str, *, by: str = "") -> tuner.Study:
        """Ends it where it is; what it has tried stays. Raises NotFound, and Conflict for one that has
        ended otherwise.
        """
        request = tuner.CancelStudyRequest(study_id=study_id, canceled_by=by)
        return self._connection.call(self._stub.CancelStudy, request)

    def extend(
        self, study_id: str, *, trials: int = 0, time: timedelta = timedelta(0), by: str = ""
    ) -> tuner.Study:
        """Has an ended study go on, with so much more than it had. Raises NotFound, and Conflict for one
        that has not ended.
        """
        request = tuner.ExtendStudyRequest(
            study_id=study_id, trials=trials, time_s=time.total_seconds(), extended_by=by
        )
        return self._connection.call(self._stub.ExtendStudy, request)
