"""Open Inference Protocol v2 over gRPC, as the cloud's door takes it."""

from __future__ import annotations

from operator import methodcaller
from typing import Any, Final

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from penstock.contracts.errors import Invalid, NotFound
from penstock.inference.v1.fallback_pb2 import SiteQuestion
from penstock.runtime.readiness import Readiness
from penstock.serving.model import Model
from penstock.serving.protocol.checks import check
from penstock.serving.protocol.tensors import NUMPY, Tensor, Undecodable, grpc_request_of
from penstock.serving.records import PREDICTION_HEADER
from penstock_edge_gateway.site.engine import DATATYPES
from penstock_edge_gateway.site.fallback import Fallback
from penstock_edge_gateway.site.inference import Answer, Inference
from penstock_edge_gateway.site.serving import Serving

SERVICE: Final = "inference.GRPCInferenceService"
PLATFORM: Final = "onnxruntime_onnx"  # Triton's name
Context = grpc.aio.ServicerContext[Any, Any]


class OpenInference:
    """The protocol's questions and their answers, as messages."""

    def __init__(
        self,
        serving: Serving,
        inference: Inference,
        fallback: Fallback,
        readiness: Readiness,
        version: str,
    ) -> None:
        """`version`: of the site's program, as ServerMetadata tells it."""
        self._serving = serving
        self._inference = inference
        self._fallback = fallback
        self._readiness = readiness
        self._version = version

    async def infer(self, request: Any, protocol: Any, within: float | None = None) -> tuple[str, Any]:
        """Answers a ModelInferRequest, of a caller who waits for `within` seconds, with the id of its
        record. Raises Invalid and what `Inference.infer` and `Fallback.ask` raise.
        """
        try:
            check(request)
        except Undecodable as error:
            raise Invalid(str(error)) from error
        for tensor in request.inputs:
            if tensor.datatype != (wanted := DATATYPES.get(tensor.name, tensor.datatype)):
                raise Invalid(f"{tensor.name} is of {tensor.datatype}, not of {wanted}")
        outputs = [output.name for output in request.outputs]
        try:
            answer = await self._inference.infer(grpc_request_of(request), protocol, outputs)
        except NotFound as why:
            question = SiteQuestion(
                pipeline=request.model_name, tensors=request.SerializeToString(), protocol=protocol
            )
            provenance, told = await self._fallback.ask(question, why, within)
            response = pb.ModelInferResponse.FromString(told.tensors)
        else:
            provenance, response = answer.provenance, response_of(answer, request.id)
        provenance.tell(response)
        return provenance.prediction, response

    async def live(self) -> bool:
        return True

    async def ready(self) -> bool:
        return self._readiness.ready

    async def model_ready(self, name: str, version: str) -> bool:
        model = self._serving.models.get(name)
        return model is not None and version in ("", str(model.generation))

    async def server(self) -> Any:
        return pb.ServerMetadataResponse(
            name="penstock-site", version=self._version, extensions=["binary_tensor_data"]
        )

    async def model(self, name: str, version: str) -> Any:
        """Inputs and outputs of the version that serves. Raises NotFound."""
        model = self._serving.version(name, version).model
        signature = model.package.signature
        inputs = (("numbers", signature.inputs.numbers), ("strings", signature.inputs.strings))
        described = pb.ModelMetadataResponse(name=name, versions=[str(model.generation)], platform=PLATFORM)
        for tensor, fields in inputs:
            if fields:
                described.inputs.add(name=tensor, datatype=DATATYPES[tensor], shape=[-1, len(fields)])
        for tensor, output in sorted(signature.outputs.items()):
            described.outputs.add(name=tensor, datatype=output.datatype, shape=[-1, output.columns])
        return described


def response_of(answer: Answer, request_id: str) -> Any:
    """Writes a ModelInferResponse with raw contents."""
    response = pb.ModelInferResponse(
        model_name=answer.response.model, model_version=answer.response.version, id=request_id
    )
    for name, tensor in answer.response.tensors.items():
        datatype = _datatype(answer.model, name)
        response.outputs.add(name=name, datatype=datatype, shape=tensor.shape)
        response.raw_output_contents.append(_raw(tensor, datatype))
    return response


def _datatype(model: Model, output: str) -> str:
    return model.package.signature.outputs[output].datatype


def _raw(tensor: Tensor, datatype: str) -> bytes:
    if datatype != "BYTES":
        return np.array(tensor.values, NUMPY[datatype]).tobytes()
    texts = (str(value).encode() for value in tensor.values)
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def add_to_server(answers: OpenInference, server: Any) -> None:
    """Adds the methods that the site has; others are UNIMPLEMENTED."""

    async def infer(message: bytes, context: Context) -> Any:
        try:
            request = pb.ModelInferRequest.FromString(message)
        except DecodeError as error:
            raise Invalid("the message is no ModelInferRequest") from error
        prediction, response = await answers.infer(request, "grpc", context.time_remaining())
        # Behind the answer: before it, it would be a write of its own, a sixth of the call.
        context.set_trailing_metadata(((PREDICTION_HEADER, prediction),))
        return response

    async def live(_: Any) -> Any:
        return pb.ServerLiveResponse(live=await answers.live())

    async def ready(_: Any) -> Any:
        return pb.ServerReadyResponse(ready=await answers.ready())

    async def described(_: Any) -> Any:
        return await answers.server()

    async def model_ready(one: Any) -> Any:
        return pb.ModelReadyResponse(ready=await answers.model_ready(one.name, one.version))

    async def model(one: Any) -> Any:
        return await answers.model(one.name, one.version)

    methods = {
        "ModelInfer": _method(None, infer),
        "ServerLive": _method(pb.ServerLiveRequest, live),
        "ServerReady": _method(pb.ServerReadyRequest, ready),
        "ServerMetadata": _method(pb.ServerMetadataRequest, described),
        "ModelReady": _method(pb.ModelReadyRequest, model_ready),
        "ModelMetadata": _method(pb.ModelMetadataRequest, model),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))


def _method(kind: Any, answer: Any) -> grpc.RpcMethodHandler[Any, Any]:
    async def call(request: Any, _context: Context) -> Any:
        return await answer(request)

    read, behaviour = (kind.FromString, call) if kind else (None, answer)
    return grpc.unary_unary_rpc_method_handler(behaviour, read, methodcaller("SerializeToString"))
