"""gRPC of inference itself: a prediction by entity or by fields, and which versions serve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import grpc
from tritonclient.grpc import service_pb2_grpc

from penstock.contracts.error_details import error_of_call
from penstock.contracts.errors import Invalid, PenstockError, Unavailable
from penstock.feature_store.v1 import feature_store_pb2, feature_store_pb2_grpc
from penstock.inference.v1 import inference_pb2, inference_pb2_grpc
from penstock.runtime import rpc
from penstock.serving.model import Model
from penstock.serving.protocol.checks import EVENTS
from penstock.serving.protocol.tensors import Tensor, grpc_response_of
from penstock.serving.records import PREDICTION_HEADER
from penstock.serving.rows import Row, find_model, plain, response_of, row_of
from penstock.serving.warnings import warnings_of
from penstock_inference.door.keeper import DoorKeeper
from penstock_inference.online import features_from_store
from penstock_inference.record.origin import Origin, Origins
from penstock_inference.record.recorder import Recorder
from penstock_inference.serving.deployment import Deployment, Deployments
from penstock_inference.serving.triton import infer_request

Context = grpc.aio.ServicerContext[Any, Any]

# Deadline of a prediction, in seconds, where the client asks for none or a later one.
LONGEST_S: Final = 30.0


class Servicer(inference_pb2_grpc.InferenceServiceServicer):
    def __init__(
        self,
        deployments: Deployments,
        recorder: Recorder,
        keeper: DoorKeeper,
        *,
        door: grpc.aio.Channel,
        feature_store: grpc.aio.Channel,
        origins: Origins,
    ) -> None:
        self._deployments = deployments
        self._recorder = recorder
        self._keeper = keeper
        self._origins = origins
        self._infer = service_pb2_grpc.GRPCInferenceServiceStub(door).ModelInfer
        self._features = feature_store_pb2_grpc.FeatureStoreServiceStub(feature_store)

    async def Predict(
        self, request: inference_pb2.PredictRequest, context: Context
    ) -> inference_pb2.PredictResponse:
        if any(one.unverified for one in self._deployments if one.pipeline == request.pipeline):
            raise Unavailable(
                f"{request.pipeline} is served, but not verified yet",
                remedy="Try again; `penstock status` says what is missing",
            )
        model = find_model(self._deployments.models, request.pipeline)
        timeout = min(context.time_remaining() or LONGEST_S, LONGEST_S)
        events: Mapping[str, str] = {}
        match request.WhichOneof("by"):
            case "entity":
                answer = await self._online(model, request.entity, timeout)
                features = features_from_store(model, request.entity, answer)
                events = answer.entities[0].events
            case "fields":
                features = {name: plain(value) for name, value in request.fields.fields.items()}
            case _:
                raise Invalid("a prediction needs an entity or fields", where="by")
        row = row_of(model, features)
        origin = Origin(dict(events), warnings_of(model, row, features))
        prediction, answers = await self._through_the_door(model, row, origin, timeout)
        response = response_of(model, prediction, answers)
        response.events.update(origin.events)
        response.warnings.extend(origin.warnings)
        return response

    async def GetServing(
        self, request: inference_pb2.GetServingRequest, context: Context
    ) -> inference_pb2.GetServingResponse:
        known = [deployment for deployment in self._deployments if deployment.served or deployment.refused]
        return inference_pb2.GetServingResponse(
            record_backlog_bytes=self._recorder.backlog_bytes,
            door_open=self._keeper.closed is None,
            door_reason=self._keeper.closed or "",
            pipelines=rpc.shown(known, _serving),
        )

    async def _online(
        self, model: Model, entity: str, within: float
    ) -> feature_store_pb2.GetOnlineFeaturesResponse:
        request = feature_store_pb2.GetOnlineFeaturesRequest(
            pipeline=model.pipeline, entities=[entity], fields=list(model.references.values())
        )
        try:
            return await self._features.GetOnlineFeatures(request, timeout=within)
        except grpc.aio.AioRpcError as error:
            told = error_of_call(error)
            if isinstance(told, Unavailable):
                raise Unavailable(
                    f"the feature store does not answer: {told.message}",
                    remedy="Predict by fields, or try again",
                ) from error
            raise told from error

    async def _through_the_door(
        self, model: Model, row: Row, origin: Origin, within: float
    ) -> tuple[str, dict[str, Tensor]]:
        # As clients do, so that there is one record, made like all others.
        request = infer_request(model.pipeline, model.generation, [row.numbers], [row.strings])
        if origin.events or origin.warnings:
            request.parameters[EVENTS].string_param = self._origins.seal(origin)
        call = self._infer(request, timeout=within)
        try:
            response = await call
            headers = await call.initial_metadata()
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error) from error
        prediction = next((value for key, value in headers if key == PREDICTION_HEADER), None)
        if prediction is None:
            raise PenstockError("the door gave the prediction no id", remedy="Look at Envoy's routes")
        return str(prediction), grpc_response_of(response).tensors


def _serving(deployment: Deployment) -> inference_pb2.Serving:
    told = inference_pb2.Serving(pipeline=deployment.pipeline)
    if served := deployment.served:
        told.digest, told.generation = served.digest, served.generation
        told.since.FromDatetime(served.since)
    if refused := deployment.refused:
        told.refused_digest, told.refused_reason = refused.digest, refused.reason
    return told
