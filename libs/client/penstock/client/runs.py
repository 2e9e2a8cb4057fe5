"""Training runs: create, watch, list, cancel."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from penstock.client.connection import Connection
from penstock.client.events import Offset
from penstock.cost.v1 import cost_pb2
from penstock.trainer.v1 import trainer_pb2 as trainer
from penstock.trainer.v1 import trainer_pb2_grpc

CHUNK_BYTES = 1 << 20
ENDED = frozenset({trainer.Run.STATE_COMPLETED, trainer.Run.STATE_FAILED, trainer.Run.STATE_CANCELED})


class Runs:
    """`penstock.runs`: training."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = trainer_pb2_grpc.TrainerServiceStub(connection.channel)

    def create(
        self,
        pipeline: str,
        *,
        overrides: Mapping[str, object] | None = None,
        after: Iterable[Offset] = (),
        by: str = "",
        key: str = "",
    ) -> trainer.Run:
        """Asks for a run. `overrides` are dotted keys of the pipeline file; its training set waits
        for everything below `after`.

        The same `key` gives the same run again. Raises NotFound, Invalid.
        """
        request = trainer.CreateRunRequest(
            pipeline=pipeline,
            overrides_json=json.dumps(dict(overrides or {})),
            min_offsets=[
                trainer.PartitionOffset(topic=o.topic, partition=o.partition, offset=o.offset) for o in after
            ],
            requested_by=by,
            idempotency_key=key,
        )
        return self._connection.call(self._stub.CreateRun, request)

    def import_model(
        self, pipeline: str, path: Path, *, after: Iterable[Offset] = (), by: str = "", key: str = ""
    ) -> trainer.Run:
        """Sends an ONNX graph that was made elsewhere; the run checks and packages it. Its training set
        waits for everything below `after`. Raises NotFound, Invalid, TooLarge, and OSError for the file.
        """
        offsets = [
            trainer.PartitionOffset(topic=o.topic, partition=o.partition, offset=o.offset) for o in after
        ]

        def requests() -> Iterator[trainer.ImportModelRequest]:
            yield trainer.ImportModelRequest(
                pipeline=pipeline, name=path.name, imported_by=by, idempotency_key=key, min_offsets=offsets
            )
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield trainer.ImportModelRequest(chunk=chunk)

        return self._connection.call(self._stub.ImportModel, requests(), timeout=600.0)

    def get(self, run_id: str) -> trainer.Run:
        """The run as it is now, its epochs included. Raises NotFound."""
        return self._connection.call(self._stub.GetRun, trainer.GetRunRequest(run_id=run_id))

    def list(self, pipeline: str = "", *, limit: int = 50) -> list[trainer.Run]:
        """Newest first."""
        return list(
            self._connection.call(
                self._stub.ListRuns, trainer.ListRunsRequest(pipeline=pipeline, limit=limit)
            ).runs
        )

    def costs(self, pipeline: str = "", *, month: str = "") -> Sequence[cost_pb2.MonthlyCost]:
        """Sums the costs of runs that ended, by pipeline and month (`2026-11`, UTC), newest first."""
        request = cost_pb2.SumCostsRequest(pipeline=pipeline, month=month)
        return self._connection.call(self._stub.SumCosts, request).months

    def watch(self, run_id: str, *, timeout: float | None = None) -> Iterator[trainer.Run]:
        """The run as it is, then each change, until it has ended."""
        return self._connection.stream(
            self._stub.WatchRun, trainer.WatchRunRequest(run_id=run_id), timeout=timeout
        )

    def cancel(self, run_id: str, *, by: str = "") -> trainer.Run:
        """Ends it where it is. Raises NotFound, and Conflict for a run that has ended otherwise."""
        return self._connection.call(
            self._stub.CancelRun, trainer.CancelRunRequest(run_id=run_id, canceled_by=by)
        )
