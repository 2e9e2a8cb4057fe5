"""Inference by whichever call: run by the version that serves, counted, recorded."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from penstock.contracts.errors import Invalid, PenstockError
from penstock.runtime.telemetry import current_traceparent
from penstock.serving.model import Model
from penstock.serving.protocol.tensors import InferMessage
from penstock_edge_gateway.site.provenance import Provenance
from penstock_edge_gateway.site.recorder import Recorder
from penstock_edge_gateway.site.serving import Serving

INLINE_ROWS: Final = 32  # rows up to which a graph runs on the event loop's thread


@dataclass(frozen=True)
class Answer:
    model: Model
    response: InferMessage
    provenance: Provenance


class Inference:
    def __init__(self, serving: Serving, recorder: Recorder) -> None:
        self._serving = serving
        self._recorder = recorder

    async def infer(
        self, asked: InferMessage, protocol: Literal["grpc", "http"], outputs: Iterable[str] = ()
    ) -> Answer:
        """Runs and records one inference; without `outputs` it gives all of them. Raises NotFound,
        Invalid, Unavailable where it must be recorded and cannot be, PenstockError where the graph
        fails.
        """
        began = time.perf_counter()
        version = self._serving.version(asked.model, asked.version)
        model = version.model
        rows = max((tensor.shape[0] for tensor in asked.tensors.values() if tensor.shape), default=0)
        try:
            if rows <= INLINE_ROWS:
                found = version.engine.run(asked.tensors, outputs)
            else:
                found = await asyncio.to_thread(version.engine.run, asked.tensors, outputs)
        except Invalid:
            raise
        except PenstockError:
            self._serving.failed(version)
            raise
        took_ms = 1000 * (time.perf_counter() - began)
        self._serving.answered(version, took_ms / rows)
        response = InferMessage(model.pipeline, str(model.generation), found)
        prediction, degraded = str(uuid.uuid4()), self._serving.degraded(version)
        confidence = self._recorder.record(
            model,
            asked,
            response,
            took_ms=took_ms,
            prediction=prediction,
            protocol=protocol,
            traceparent=current_traceparent(),
            degraded=degraded,
        )
        return Answer(model, response, Provenance(prediction, "site", confidence, degraded))
