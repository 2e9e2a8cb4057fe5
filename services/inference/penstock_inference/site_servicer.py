"""Questions of sites, which the hub hands on: asked of the door like all others, and recorded with the
site's name. Nobody else names a site: the hub shows the secret that it shares with the door for sites.
"""

from __future__ import annotations

import asyncio
import hmac
from pathlib import Path
from typing import Any, Final, Literal

import grpc
from google.protobuf.message import DecodeError
from pydantic import ValidationError
from tritonclient.grpc import service_pb2

from penstock.contracts.errors import Denied, Invalid, NotFound
from penstock.contracts.site_door import DOOR_HEADER, SiteDoor
from penstock.inference.v1 import fallback_pb2, fallback_pb2_grpc
from penstock.serving.model import Model
from penstock.serving.protocol.checks import check
from penstock.serving.protocol.tensors import Undecodable, grpc_response_of
from penstock.serving.rows import plain
from penstock_inference.asking import LONGEST_S, Asking, trace_of
from penstock_inference.record.origin import OfSite, Origin
from penstock_inference.serving.deployment import Deployments

REASONS: Final = ("no_version", "refused_version")  # of `Degraded`: for which a site asks
PROTOCOLS: Final[dict[str, Literal["grpc", "http"]]] = {"grpc": "grpc", "http": "http"}
Context = grpc.aio.ServicerContext[Any, Any]


class SiteQuestions(fallback_pb2_grpc.FallbackServiceServicer):
    def __init__(self, deployments: Deployments, asking: Asking, handed: Path) -> None:
        """`handed`: the file that the hub hands over, with the secret."""
        self._deployments = deployments
        self._asking = asking
        self._handed = handed

    async def Answer(self, request: fallback_pb2.AnswerRequest, context: Context) -> fallback_pb2.SiteAnswer:
        """Raises Denied for whoever is not the hub, NotFound, Invalid, and what the door says."""
        if not await asyncio.to_thread(self._is_hub, context):
            raise Denied("only the hub asks for sites", remedy="Ask the front door for a prediction")
        question, within_s = request.question, min(context.time_remaining() or LONGEST_S, LONGEST_S)
        if question.degraded not in REASONS:
            raise Invalid(f"no reason {question.degraded!r}", where="degraded", remedy=", ".join(REASONS))
        model = self._deployments.verified(question.pipeline)
        edge = self._deployments.of(model.pipeline).declared.edge
        protocol = PROTOCOLS.get(question.protocol)
        site = OfSite(request.site, question.degraded, model.edges, edge.label_below, protocol)
        if question.WhichOneof("by") == "fields":
            given = {name: plain(value) for name, value in question.fields.fields.items()}
            found = await self._asking.by_values(model, given, within_s, site=site, trace=trace_of(context))
            answer = fallback_pb2.SiteAnswer(prediction=found.prediction, fields=found)
            if found.HasField("confidence"):
                answer.confidence = found.confidence
            return answer
        asked = tensors_of(question, model)
        prediction, response = await self._asking.by_tensors(
            asked, Origin(site=site), within_s, trace_of(context)
        )
        answer = fallback_pb2.SiteAnswer(prediction=prediction, tensors=response.SerializeToString())
        if (least := _confidence(model, response)) is not None:
            answer.confidence = least
        return answer

    def _is_hub(self, context: Context) -> bool:
        try:
            secret = SiteDoor.model_validate_json(self._handed.read_bytes()).secret
        except (OSError, ValidationError):  # no hub has handed anything over
            return False
        shown = dict(context.invocation_metadata() or ()).get(DOOR_HEADER, "")
        return isinstance(shown, str) and hmac.compare_digest(shown.encode(), secret.encode())


def tensors_of(question: fallback_pb2.SiteQuestion, model: Model) -> Any:
    """Reads the question's ModelInferRequest, for exactly the version that answers. Raises Invalid, and
    NotFound where it wants another.
    """
    try:
        asked = service_pb2.ModelInferRequest.FromString(question.tensors)
        check(asked)
    except (DecodeError, Undecodable) as error:
        raise Invalid(f"this is no ModelInferRequest: {error}") from error
    if asked.model_name != model.pipeline:
        raise Invalid(f"the tensors are for {asked.model_name!r}, the question is for {model.pipeline}")
    if asked.model_version not in ("", str(model.generation)):
        raise NotFound(f"{model.pipeline} serves generation {model.generation}, not {asked.model_version}")
    asked.model_version = str(model.generation)
    asked.DiscardUnknownFields()
    return asked


def _confidence(model: Model, response: Any) -> float | None:
    tensor = grpc_response_of(response).tensors.get("probabilities")
    if not model.edges or tensor is None:
        return None
    rows = tensor.matrix(len(model.package.signature.classes), "probabilities")
    return min(model.edges.confidences([[float(value) for value in row] for row in rows]), default=None)
