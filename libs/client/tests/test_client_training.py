"""Waits of `train --wait` and `review approve` for what is served."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace
from typing import cast

import grpc
import pytest
from click.testing import Result
from typer.testing import CliRunner

from penstock.client import ClientSettings, Penstock
from penstock.client.cli import following, reviews
from penstock.client.cli.main import app
from penstock.client.cli.models import _state
from penstock.client.cli.predictions import _unserved
from penstock.contracts.verdicts import WAITS
from penstock.ethics_audit.v1 import ethics_audit_pb2 as ethics_audit
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


def _version(state: registry.Version.State, *because: str, generation: int = 0) -> registry.Version:
    return registry.Version(
        pipeline="loans", digest="sha256:new", state=state, because=because, generation=generation
    )


WAITING = _version(registry.Version.STATE_REFUSED, "auroc ≥ 0.7: inconclusive", WAITS)
TAKEN_ON = _version(registry.Version.STATE_PROMOTED, generation=3)
SERVING = inference.Serving(pipeline="loans", digest="sha256:new", generation=3)
NOTHING = inference.Serving(pipeline="loans")
DAMAGED = inference.Serving(pipeline="loans", refused_digest="sha256:new", refused_reason="it is damaged")


def _platform(*versions: registry.Version, served: inference.Serving = SERVING) -> Penstock:
    """Gives each version in turn, then the last for ever."""
    given = list(versions)
    models = SimpleNamespace(
        get=lambda _: given.pop(0) if len(given) > 1 else given[0], list=lambda _: [given[0]]
    )
    serving = inference.GetServingResponse(pipelines=[served])
    review = ethics_audit.Review(pipeline="loans", digest="sha256:new", state="approved", decided_by="ada")
    return cast(
        Penstock,
        SimpleNamespace(
            models=models,
            predictions=SimpleNamespace(serving=lambda: serving),
            audits=SimpleNamespace(decide=lambda *_, **__: review, reviews=lambda *_, **__: [review]),
            pipelines=SimpleNamespace(
                get=lambda _: registry.Pipeline(
                    promoted_digest="" if WAITS in given[0].because else given[0].digest
                )
            ),
        ),
    )


def _approve(monkeypatch: pytest.MonkeyPatch, penstock: Penstock, *flags: str) -> Result:
    monkeypatch.setenv("PENSTOCK_ENDPOINT", "127.0.0.1:1")  # who names none is told so, in a line more
    monkeypatch.setattr(following, "SERVED_WITHIN_S", 0.5)
    monkeypatch.setattr(reviews, "Penstock", lambda: nullcontext(penstock))
    return CliRunner().invoke(app, ["review", "approve", "loans@new", "--why", "looked at it", *flags])


def test_an_approval_waits_until_its_version_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    done = _approve(monkeypatch, _platform(WAITING, WAITING, TAKEN_ON))
    assert (done.exit_code, done.output.splitlines()[-1]) == (0, "served")
    done = _approve(monkeypatch, _platform(WAITING))
    assert done.exit_code == 1
    assert "not served: its promotion is under way" in done.output


def test_an_approval_that_need_not_wait_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    done = _approve(monkeypatch, _platform(WAITING), "--no-wait")
    assert (done.exit_code, len(done.stdout.splitlines())) == (0, 1)


def test_an_approved_version_that_is_worse_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    worse = _version(registry.Version.STATE_REFUSED, "worse than the one that serves")
    done = _approve(monkeypatch, _platform(WAITING, worse))
    assert done.exit_code == 3
    assert "refused: worse than the one that serves" in done.output


@pytest.mark.parametrize(
    ("platform", "said"),
    [
        (_platform(WAITING, served=NOTHING), "loans@new is approved, its promotion is under way"),
        (_platform(TAKEN_ON, served=NOTHING), "loans@new is promoted, but not served yet"),
        (_platform(TAKEN_ON, served=DAMAGED), "loans@new is promoted, but not served: it is damaged"),
        (_platform(_version(registry.Version.STATE_REFUSED)), None),
    ],
)
def test_it_is_said_why_nothing_answers(platform: Penstock, said: str | None) -> None:
    """Nothing more where a version serves: then the entity is not there."""
    found = _unserved(platform, "loans")
    assert (found.message if found else None) == said


def test_a_version_that_waits_for_a_person_is_not_called_refused(capsys: pytest.CaptureFixture[str]) -> None:
    following._show_decision(WAITING, ethics_audit.Audit(verdict="inconclusive"))
    said = capsys.readouterr().out
    assert "not passed: auroc ≥ 0.7: inconclusive" in said
    assert "waits for a review: a person may waive what did not pass" in said
    assert "refused" not in said


def test_a_promotion_says_how_it_compares_with_the_champion(capsys: pytest.CaptureFixture[str]) -> None:
    against = "against the champion auroc is 0.0040 worse"
    promoted = _version(registry.Version.STATE_PROMOTED, against, generation=3)
    following._show_decision(promoted, ethics_audit.Audit(verdict="pass"))
    assert capsys.readouterr().out.endswith(f"promoted: generation 3\n{against}\n")


def test_what_waits_for_a_review_is_said_in_the_list_of_versions() -> None:
    refused = _version(registry.Version.STATE_REFUSED)
    waiting = registry.Version(state=registry.Version.STATE_REFUSED, waits_for_review=True)
    assert [_state(one) for one in (refused, waiting)] == ["refused", "waiting for a review"]
