"""gRPC of inference itself: a prediction by entity or by fields, and which versions serve."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import grpc

from penstock.contracts.error_details import error_of_call
from penstock.contracts.errors import Invalid, Unavailable
from penstock.feature_store.v1 import feature_store_pb2
from penstock.inference.v1 import inference_pb2, inference_pb2_grpc
from penstock.runtime import rpc
from penstock.serving.model import Model
from penstock.serving.rows import plain
from penstock_inference.asking import LONGEST_S, Asking, trace_of
from penstock_inference.door.keeper import DoorKeeper
from penstock_inference.online import features_from_store
from penstock_inference.record.recorder import Recorder
from penstock_inference.serving.deployment import Deployment, Deployments
from penstock_inference.short import Metadata, Short

Context = grpc.aio.ServicerContext[Any, Any]
OnlineFeatures = feature_store_pb2.GetOnlineFeaturesResponse


class Servicer(inference_pb2_grpc.InferenceServiceServicer):
    def __init__(
        self,
        deployments: Deployments,
        recorder: Recorder,
        keeper: DoorKeeper,
        asking: Asking,
        online: Short,
    ) -> None:
        """`online` asks the feature store for online features."""
        self._deployments = deployments
        self._recorder = recorder
        self._keeper = keeper
        self._asking = asking
        self._features = online

    async def Predict(
        self, request: inference_pb2.PredictRequest, context: Context
    ) -> inference_pb2.PredictResponse:
        model = self._deployments.verified(request.pipeline)
        within_s, trace = min(context.time_remaining() or LONGEST_S, LONGEST_S), trace_of(context)
        events: Mapping[str, str] = {}
        match request.WhichOneof("by"):
            case "entity":
                answer = await self._online(model, request.entity, within_s, trace)
                features = features_from_store(model, request.entity, answer, datetime.now(UTC))
                events = answer.entities[0].events
            case "fields":
                features = {name: plain(value) for name, value in request.fields.fields.items()}
            case _:
                raise Invalid("a prediction needs an entity or fields", where="by")
        return await self._asking.by_values(model, features, within_s, events=events, trace=trace)

    async def GetServing(
        self, request: inference_pb2.GetServingRequest, context: Context
    ) -> inference_pb2.GetServingResponse:
        known = [one for one in self._deployments if one.served or one.refused or one.stopped]
        return inference_pb2.GetServingResponse(
            record_backlog_bytes=self._recorder.backlog_bytes,
            door_open=self._keeper.closed is None,
            door_reason=self._keeper.closed or "",
            pipelines=rpc.shown(known, _serving),
        )

    async def _online(self, model: Model, entity: str, within_s: float, trace: Metadata) -> OnlineFeatures:
        request = feature_store_pb2.GetOnlineFeaturesRequest(
            pipeline=model.pipeline, entities=[entity], fields=model.asked
        )
        try:
            answer: OnlineFeatures = (await self._features(request, within_s, trace)).message
            return answer
        except grpc.aio.AioRpcError as error:
            told = error_of_call(error)
            if isinstance(told, Unavailable):
                raise Unavailable(
                    f"the feature store does not answer: {told.message}",
                    remedy="Predict by fields, or try again",
                ) from error
            raise told from error


def _serving(deployment: Deployment) -> inference_pb2.Serving:
    told = inference_pb2.Serving(pipeline=deployment.pipeline, stopped=deployment.stopped)
    if served := deployment.served:
        told.digest, told.generation = served.digest, served.generation
        told.since.FromDatetime(served.since)
        if layout := deployment.layout(served.generation):
            told.numbers[:], told.strings[:] = layout.numbers, layout.strings
    if refused := deployment.refused:
        told.refused_digest, told.refused_reason = refused.digest, refused.reason
    return told
