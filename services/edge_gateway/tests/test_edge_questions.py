"""The hub hands a site's question on to the platform only where the pipeline's file lets it, with the name
by which it knows the site, whatever the site says. Inference is a real server that says what it was asked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock.contracts.errors import Denied, NotFound
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.site_door import DOOR_HEADER
from penstock.inference.v1 import fallback_pb2 as pb
from penstock.inference.v1 import fallback_pb2_grpc
from penstock.runtime import rpc
from penstock.testing import lending
from penstock_edge_gateway.hub.questions import Questions

QUESTION = pb.SiteQuestion(pipeline="loans", degraded="no_version", tensors=b"a question")
ALLOWED = {"fallback": {"when": "missing"}}


class Inference(fallback_pb2_grpc.FallbackServiceServicer):
    def __init__(self) -> None:
        self.asked: list[tuple[pb.AnswerRequest, str, float]] = []
        self.serves = True

    async def Answer(self, request: pb.AnswerRequest, context: Any) -> pb.SiteAnswer:
        if not self.serves:
            raise NotFound("no pipeline 'loans' is served")
        secret = dict(context.invocation_metadata())[DOOR_HEADER]
        self.asked.append((request, secret, context.time_remaining()))
        return pb.SiteAnswer(prediction="p1")


@pytest.fixture
def inference() -> Inference:
    return Inference()


@pytest.fixture
def files() -> dict[str, Pipeline]:
    return {"loans": lending.pipeline(edge=ALLOWED)}


@pytest.fixture
async def questions(inference: Inference, files: dict[str, Pipeline]) -> AsyncIterator[Questions]:
    def declared(name: str) -> Pipeline:
        if name not in files:
            raise NotFound(f"no pipeline {name}")
        return files[name]

    server = rpc.server()
    fallback_pb2_grpc.add_FallbackServiceServicer_to_server(inference, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with rpc.connect(f"127.0.0.1:{port}") as channel:
        yield Questions(channel, "secret", declared)
    await server.stop(None)


async def test_it_is_asked_with_the_sites_name_and_the_sites_time(
    questions: Questions, inference: Inference
) -> None:
    assert (await questions.ask("branch-1", QUESTION, 1.5)).prediction == "p1"
    ((request, secret, within_s),) = inference.asked
    assert (request.site, request.question, secret) == ("branch-1", QUESTION, "secret")
    assert 0 < within_s < 1.6  # gRPC rounds a deadline up and reads two clocks for what remains of it


@pytest.mark.parametrize(
    ("edge", "said"),
    [
        ({}, "edge.fallback: sites answer for loans themselves: its file has no fallback"),
        (
            {**ALLOWED, "may_leave": ["purpose"]},
            "`income` may not leave a site, so loans cannot be asked for",
        ),
    ],
)
async def test_else_it_is_not(
    questions: Questions, inference: Inference, files: dict[str, Pipeline], edge: dict[str, Any], said: str
) -> None:
    files["loans"] = lending.pipeline(edge=edge)
    with pytest.raises(Denied) as refused:
        await questions.ask("branch-1", QUESTION, 1.5)
    assert str(refused.value).startswith(said)
    with pytest.raises(NotFound):
        await questions.ask("branch-1", pb.SiteQuestion(pipeline="another"), 1.5)
    assert not inference.asked


async def test_what_inference_says_reaches_the_site(questions: Questions, inference: Inference) -> None:
    inference.serves = False
    with pytest.raises(NotFound, match="no pipeline 'loans' is served"):
        await questions.ask("branch-1", QUESTION, 1.5)
