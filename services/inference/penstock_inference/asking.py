"""Predictions asked of the door as clients ask it, so that there is one record, made like all others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import grpc
from tritonclient.grpc import service_pb2_grpc

from penstock.contracts.error_details import error_of_call
from penstock.contracts.errors import PenstockError
from penstock.inference.v1 import inference_pb2
from penstock.serving.model import Model
from penstock.serving.protocol.checks import EVENTS
from penstock.serving.protocol.tensors import grpc_response_of
from penstock.serving.records import PREDICTION_HEADER
from penstock.serving.rows import FeatureValue, response_of, row_of
from penstock.serving.warnings import warnings_of
from penstock_inference.record.origin import OfSite, Origin, Origins
from penstock_inference.serving.triton import infer_request

# Deadline of a prediction, in seconds, where the client asks for none or a later one.
LONGEST_S: Final = 30.0


class Asking:
    def __init__(self, door: grpc.aio.Channel, origins: Origins) -> None:
        self._infer = service_pb2_grpc.GRPCInferenceServiceStub(door).ModelInfer
        self._origins = origins

    async def by_values(
        self,
        model: Model,
        given: Mapping[str, FeatureValue],
        within_s: float,
        *,
        events: Mapping[str, str] | None = None,
        site: OfSite | None = None,
    ) -> inference_pb2.PredictResponse:
        """Predicts from feature values by name, with the `events` that they are of. Raises Invalid, and what
        the door says.
        """
        row = row_of(model, given)
        origin = Origin(dict(events or {}), warnings_of(model, row, given), site)
        request = infer_request(model.pipeline, model.generation, [row.numbers], [row.strings])
        prediction, answer = await self.by_tensors(request, origin, within_s)
        response = response_of(model, prediction, grpc_response_of(answer).tensors)
        response.events.update(origin.events)
        response.warnings.extend(origin.warnings)
        return response

    async def by_tensors(self, request: Any, origin: Origin, within_s: float) -> tuple[str, Any]:
        """Asks with a ModelInferRequest; returns its prediction's id and the ModelInferResponse."""
        if origin != Origin():
            request.parameters[EVENTS].string_param = self._origins.seal(origin)
        call = self._infer(request, timeout=within_s)
        try:
            response = await call
            headers = await call.initial_metadata()
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error) from error
        prediction = next((value for key, value in headers if key == PREDICTION_HEADER), None)
        if prediction is None:
            raise PenstockError("the door gave the prediction no id", remedy="Look at Envoy's routes")
        return str(prediction), response
