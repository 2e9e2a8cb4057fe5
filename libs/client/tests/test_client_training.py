"""What `train --wait` waits for after a promotion, against a real gRPC server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from penstock.client import ClientSettings, Penstock
from penstock.client.cli import following
from penstock.inference.v1 import inference_pb2 as inference
from penstock.inference.v1 import inference_pb2_grpc
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.trainer.v1 import trainer_pb2 as trainer

PROMOTED = registry.Version(pipeline="loans", digest="sha256:new", generation=3)
Serve = Callable[..., Penstock]


class Inference(inference_pb2_grpc.InferenceServiceServicer):
    """Answers with each in turn, then with the last for ever."""

    def __init__(self, answers: list[inference.Serving]) -> None:
        self._answers = answers

    def GetServing(
        self, request: inference.GetServingRequest, context: grpc.ServicerContext
    ) -> inference.GetServingResponse:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return inference.GetServingResponse(pipelines=[answer])


@pytest.fixture
def serve() -> Iterator[Serve]:
    server = grpc.server(ThreadPoolExecutor(1))

    def begin(*answers: inference.Serving) -> Penstock:
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(Inference(list(answers)), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        return Penstock(ClientSettings(endpoint=f"127.0.0.1:{port}"))

    yield begin
    server.stop(None)


def test_choices_of_a_run_are_words() -> None:
    run = trainer.Run(chosen_json='{"model.type": "mlp", "trainer.epochs": 60}', chosen_because="it may")
    assert following.chosen(run) == "model.type mlp, trainer.epochs 60, as it may"
    assert following.chosen(trainer.Run()) == ""


def test_it_is_served_once_its_generation_or_a_later_one_is(serve: Serve) -> None:
    before = inference.Serving(pipeline="loans", digest="sha256:old", generation=2)
    with serve(
        before, before, inference.Serving(pipeline="loans", digest="sha256:other", generation=4)
    ) as penstock:
        assert following._until_served(penstock, PROMOTED) == ""


def test_what_inference_refuses_is_said_at_once(serve: Serve) -> None:
    refused = inference.Serving(
        pipeline="loans",
        generation=2,
        refused_digest="sha256:new",
        refused_reason="the package is tampered with",
    )
    with serve(refused) as penstock:
        assert following._until_served(penstock, PROMOTED) == "the package is tampered with"


def test_what_is_never_served_ends_with_where_to_look(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "SERVED_WITHIN_S", 0.3)
    with serve(inference.Serving(pipeline="other", generation=9)) as penstock:
        assert following._until_served(penstock, PROMOTED) == "not within 0 s; see penstock status"
