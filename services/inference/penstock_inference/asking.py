"""Predictions asked of the door as clients ask it, so that there is one record, made like all others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import grpc

from penstock.contracts.error_details import error_of_call
from penstock.contracts.errors import PenstockError
from penstock.inference.v1 import inference_pb2
from penstock.runtime.telemetry import current_traceparent
from penstock.serving.model import Model
from penstock.serving.protocol.checks import EVENTS
from penstock.serving.protocol.tensors import grpc_response_of
from penstock.serving.records import PREDICTION_HEADER
from penstock.serving.rows import FeatureValue, response_of, row_of
from penstock.serving.warnings import warnings_of
from penstock_inference.record.origin import OfSite, Origin, Origins
from penstock_inference.serving.triton import infer_request
from penstock_inference.short import Metadata, Short

# Deadline of a prediction, in seconds, where the client asks for none or a later one.
LONGEST_S: Final = 30.0
_TRACEPARENT_LENGTH: Final = 55  # of every one, by W3C's Trace Context


def trace_of(context: grpc.aio.ServicerContext[Any, Any]) -> Metadata:
    """A call's span as metadata of those that it makes, else what its caller says of one."""
    trace = current_traceparent() or dict(context.invocation_metadata() or ()).get("traceparent")
    return (("traceparent", str(trace)),) if trace and len(trace) == _TRACEPARENT_LENGTH else ()


class Asking:
    def __init__(self, infer: Short, origins: Origins) -> None:
        """`infer` asks the door."""
        self._infer = infer
        self._origins = origins

    async def by_values(
        self,
        model: Model,
        given: Mapping[str, FeatureValue],
        within_s: float,
        *,
        events: Mapping[str, str] | None = None,
        site: OfSite | None = None,
        trace: Metadata = (),
    ) -> inference_pb2.PredictResponse:
        """Predicts from feature values by name, with the `events` that they are of. Raises Invalid, and what
        the door says.
        """
        row = row_of(model, given)
        origin = Origin(dict(events or {}), warnings_of(model, row, given), site)
        request = infer_request(model.pipeline, model.generation, [row.numbers], [row.strings])
        prediction, answer = await self.by_tensors(request, origin, within_s, trace)
        response = response_of(model, prediction, grpc_response_of(answer).tensors)
        response.events.update(origin.events)
        response.warnings.extend(origin.warnings)
        return response

    async def by_tensors(
        self, request: Any, origin: Origin, within_s: float, trace: Metadata = ()
    ) -> tuple[str, Any]:
        """Asks with a ModelInferRequest; returns its prediction's id and the ModelInferResponse."""
        if origin != Origin():
            request.parameters[EVENTS].string_param = self._origins.seal(origin)
        try:
            reply = await self._infer(request, within_s, trace, header=PREDICTION_HEADER)
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error) from error
        if reply.header is None:
            raise PenstockError("the door gave the prediction no id", remedy="Look at Envoy's routes")
        return str(reply.header), reply.message
