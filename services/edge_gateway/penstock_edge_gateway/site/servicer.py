"""gRPC of inference at the site: a prediction by fields, and which versions serve."""

from __future__ import annotations

from typing import Any

import grpc

from penstock.contracts.errors import Invalid, NotFound
from penstock.inference.v1 import inference_pb2, inference_pb2_grpc
from penstock.inference.v1.fallback_pb2 import SiteQuestion
from penstock.serving.protocol.tensors import InferMessage
from penstock.serving.rows import plain, response_of, row_of
from penstock.serving.warnings import warnings_of
from penstock_edge_gateway.site.engine import tensors_of
from penstock_edge_gateway.site.fallback import Fallback
from penstock_edge_gateway.site.inference import Inference
from penstock_edge_gateway.site.provenance import Provenance
from penstock_edge_gateway.site.serving import Serving

Context = grpc.aio.ServicerContext[Any, Any]


class Servicer(inference_pb2_grpc.InferenceServiceServicer):
    def __init__(self, serving: Serving, inference: Inference, fallback: Fallback) -> None:
        self._serving = serving
        self._inference = inference
        self._fallback = fallback

    async def Predict(
        self, request: inference_pb2.PredictRequest, context: Context
    ) -> inference_pb2.PredictResponse:
        if request.WhichOneof("by") != "fields":
            raise Invalid("a site predicts by fields: what is known of an entity is in the cloud", where="by")
        try:
            model = self._serving.version(request.pipeline).model
        except NotFound as why:
            question = SiteQuestion(pipeline=request.pipeline, fields=request.fields, protocol="grpc")
            provenance, told = await self._fallback.ask(question, why, context.time_remaining())
            return _with_provenance(told.fields, provenance)
        given = {name: plain(value) for name, value in request.fields.fields.items()}
        row = row_of(model, given)
        tensors = tensors_of([row.numbers], [row.strings])
        asked = InferMessage(model.pipeline, str(model.generation), tensors)
        answer = await self._inference.infer(asked, "grpc")
        response = response_of(model, answer.provenance.prediction, answer.response.tensors)
        response.warnings.extend(warnings_of(model, row, given))
        return _with_provenance(response, answer.provenance)

    async def GetServing(
        self, request: inference_pb2.GetServingRequest, context: Context
    ) -> inference_pb2.GetServingResponse:
        told = []
        for pipeline, kept in sorted(self._serving.kept.items()):
            one = inference_pb2.Serving(pipeline=pipeline, stopped=self._serving.why_stopped(pipeline))
            if version := self._serving.versions.get(pipeline):
                one.digest, one.generation = version.model.digest, version.model.generation
                one.since.FromDatetime(version.since)
            if kept.refused:
                one.refused_digest, one.refused_reason = kept.refused.digest, kept.refused.reason
            told.append(one)
        return inference_pb2.GetServingResponse(pipelines=told, door_open=True)


def _with_provenance(
    response: inference_pb2.PredictResponse, provenance: Provenance
) -> inference_pb2.PredictResponse:
    response.served_by, response.degraded = provenance.served_by, provenance.degraded or ""
    return response
