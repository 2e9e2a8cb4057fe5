"""The record of each answer that the site gives: kept before the answer, and of one form with those of
the platform's door.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final, Literal

import structlog

from penstock.contracts.dataplane import Degraded, Prediction
from penstock.contracts.errors import NotFound, Unavailable
from penstock.contracts.pipeline import Pipeline
from penstock.serving.model import Model
from penstock.serving.protocol.tensors import InferMessage
from penstock.serving.records import encoded, fill_confidence, fill_inputs, fill_outputs
from penstock_edge_gateway.site.lane import Lane
from penstock_edge_gateway.site.leaving import withheld_inputs
from penstock_edge_gateway.site.spool import Record
from penstock_edge_gateway.site.spool_file import Full

log = structlog.get_logger(__name__)

_DROPPED: Final = 256  # records at a time, so that not each answer waits for room
_EXPIRES_EVERY_S: Final = 60.0


class Recorder:
    def __init__(
        self,
        site: str,
        lane: Lane,
        *,
        pipelines: Callable[[str], Pipeline],
        age: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        """`pipelines`: the newest file of a pipeline, raises NotFound. `age`: how long a record waits for
        the hub that its pipeline does not require.
        """
        self._pipelines = pipelines
        self._site = site
        self._lane = lane
        self._age = age
        self._clock = clock
        # By pipeline, for the version that answered last and the file that is applied.
        self._withheld: dict[str, tuple[Model, Pipeline | None, Sequence[str]]] = {}

    def record(
        self,
        model: Model,
        request: InferMessage,
        response: InferMessage,
        *,
        took_ms: float,
        prediction: str,
        protocol: Literal["grpc", "http"],
        traceparent: str | None = None,
        degraded: Degraded | None = None,
    ) -> float | None:
        """Keeps it before it returns, and returns its confidence, the lowest of its rows. Raises
        Unavailable where the pipeline says `record: required` and there is no room: the answer must not be
        given.
        """
        said = Prediction(
            id=prediction,
            pipeline=model.pipeline,
            digest=model.digest,
            generation=model.generation,
            time=self._clock().isoformat(timespec="microseconds").replace("+00:00", "Z"),
            milliseconds=took_ms,
            protocol=protocol,
            status="OK",
            traceparent=traceparent,
            rows=None,
            inputs=None,
            probabilities=None,
            values=None,
            decisions=None,
            undecoded=None,
            site=self._site,
            served_by="site",
        )
        if degraded:
            said["degraded"] = degraded
        fill_inputs(said, request, model.layout)
        applied = self._applied(model.pipeline)
        if inputs := said["inputs"]:
            for name in self._withheld_inputs(model, applied):
                inputs[name] = [None] * len(inputs[name])
        fill_outputs(said, response)
        fill_confidence(said, model.edges, (applied or model.package.pipeline).edge.label_below)
        confidence = min(said.get("confidence", ()), default=None)
        required = model.package.pipeline.serving.record == "required"
        self._keep(Record(model.pipeline, "", "", encoded(said), required))
        return confidence

    def _applied(self, pipeline: str) -> Pipeline | None:
        try:
            return self._pipelines(pipeline)
        except NotFound:  # it was deleted, or the site has not heard of it yet
            return None

    def _withheld_inputs(self, model: Model, applied: Pipeline | None) -> Sequence[str]:
        known = self._withheld.get(model.pipeline)
        if known is None or known[0] is not model or known[1] is not applied:
            known = self._withheld[model.pipeline] = model, applied, withheld_inputs(model, applied)
        return known[2]

    def _keep(self, record: Record) -> None:
        while True:
            try:
                return self._lane.keep_now(record)
            except Full as error:
                if self._lane.spool.drop(_DROPPED):
                    continue
                self._lane.refuse(self._clock())
                if record.required:
                    raise Unavailable(
                        f"{record.pipeline} answers only what is recorded, and the site has no room for"
                        " more records",
                        remedy="Bring back the connection to the hub, or give the spool more room:"
                        " PENSTOCK_SITE__SPOOL_SIZE",
                    ) from error
                self._lane.lost += 1
                return None

    async def expire(self) -> None:
        """Drops what has waited for too long, for as long as the site runs."""
        while True:
            dropped = await asyncio.to_thread(
                self._lane.spool.drop, _DROPPED, older_than_s=self._age.total_seconds()
            )
            if dropped:
                log.warning("records_too_old", dropped=dropped)
            await asyncio.sleep(0 if dropped else _EXPIRES_EVERY_S)
