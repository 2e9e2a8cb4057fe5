"""A stopped pipeline: what each verb says of it, and what stopping does to the file of somebody else."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from penstock.client.cli import models, predictions, stopping
from penstock.client.cli.main import app
from penstock.client.pipelines import Pipelines
from penstock.client.predictions import Predictions
from penstock.contracts.errors import Conflict, Unavailable
from penstock.contracts.load import read
from penstock.inference.v1 import inference_pb2 as inference
from penstock.model_registry.v1 import model_registry_pb2 as registry

TEXT = """\
version: 1
pipeline: loans
entities: {loan: {key: id}}
sources:
  events: {entity: loan, id: id, timestamp: at, fields: {income: {type: number}, bad: {type: boolean}}}
targets: {bad: {from: events.bad, type: binary}}
"""
WHY = "wrong for women"
VERSION = registry.Version(pipeline="loans", digest="sha256:" + "3f9c12ab" * 8, generation=7)


class Registry:
    """Numbers files as the registry does; `meanwhile` is applied by somebody else after the next read."""

    def __init__(self, text: str) -> None:
        self.channel = grpc.insecure_channel("127.0.0.1:1")  # connects only where a call is made
        self.files = [text]
        self.meanwhile: list[str] = []

    def call(self, _: object, request: Any) -> Any:
        if isinstance(request, registry.GetPipelineRequest):
            found = registry.Pipeline(name="loans", number=len(self.files), text=self.files[-1])
            self.files += self.meanwhile
            self.meanwhile = []
            return found
        if changed := request.text != self.files[-1]:
            self.files.append(request.text)
        return registry.ApplyPipelineResponse(pipeline="loans", number=len(self.files), changed=changed)


def pipelines(at: Registry) -> Pipelines:
    connection: Any = at
    return Pipelines(connection)


def test_who_applied_a_file_while_another_stopped_is_not_reverted_silently() -> None:
    at = Registry(TEXT)
    at.meanwhile = [TEXT + "trainer: {epochs: 3}\n"]
    with pytest.raises(Conflict, match=r"loans is stopped, but file number 2, .* was replaced"):
        pipelines(at).stop("loans", WHY)
    at.meanwhile = [TEXT + "trainer: {epochs: 4}\n"]
    with pytest.raises(Conflict, match=r"no longer, but file number 4, .* Apply that file again"):
        pipelines(at).resume("loans")


def test_two_who_stop_for_one_reason_are_both_told_that_it_is_stopped() -> None:
    at, other = Registry(TEXT), Registry(TEXT)
    pipelines(other).stop("loans", WHY)
    at.meanwhile = other.files[1:]
    assert not pipelines(at).stop("loans", WHY).changed
    assert read(at.files[-1]).serving.stopped == WHY
    assert pipelines(at).resume("loans").number == 3


def platform(monkeypatch: pytest.MonkeyPatch, verbs: Any, **parts: Any) -> Callable[..., str]:
    """Runs a verb against a platform of these parts: what it says, on one line."""
    monkeypatch.setattr(verbs, "Penstock", lambda: nullcontext(SimpleNamespace(**parts)))

    def said(*asked: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, asked)
        assert done.exit_code == code, done.output
        return " ".join(done.output.split())

    return said


def away(_: str) -> str:
    raise Unavailable("the registry is away")


@pytest.mark.parametrize("verb", ["promote", "rollback"])
def test_what_a_stopped_pipeline_is_back_at_is_named(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = SimpleNamespace(promote=lambda *_, **__: VERSION, roll_back=lambda *_, **__: VERSION)
    stopped = SimpleNamespace(stopped=lambda _: WHY)
    said = platform(monkeypatch, models, models=done, pipelines=stopped)(verb, "loans")
    for part in ("3f9c12ab", "generation 7", f"loans is stopped, nothing of it answers: {WHY}"):
        assert part in said
    asked = platform(monkeypatch, models, models=done, pipelines=SimpleNamespace(stopped=away))
    said = asked(verb, "loans")
    assert ("3f9c12ab" in said, "generation 7" in said, "away" in said) == (True, True, False)


def test_columns_of_a_stopped_pipeline_are_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    told = inference.GetServingResponse(pipelines=[inference.Serving(pipeline="loans", stopped=WHY)])
    connection: Any = SimpleNamespace(channel=grpc.insecure_channel("127.0.0.1:1"), call=lambda *_: told)
    unused: Any = None
    of = Predictions(connection, unused, unused)
    said = platform(monkeypatch, predictions, predictions=of)("predict", "loans", "--columns", code=1)
    assert f"loans is stopped: {WHY}. penstock resume loans has it answer again" in said


@pytest.mark.parametrize(
    ("changed", "promoted", "said"),
    [
        (True, "3f9c", "loans is stopped no longer, number 3: it answers again"),
        (False, "3f9c", "loans was not stopped, its file stays number 3: it answers"),
        (False, "", "loans was not stopped, its file stays number 3: it has no promoted version"),
    ],
)
def test_who_resumes_is_told_whether_it_was_stopped(
    changed: bool, promoted: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = inference.GetServingResponse(pipelines=[inference.Serving(pipeline="loans", digest="3f9c")])
    applied = registry.ApplyPipelineResponse(pipeline="loans", number=3, changed=changed)
    of = SimpleNamespace(
        resume=lambda *_, **__: applied, get=lambda _: registry.Pipeline(promoted_digest=promoted)
    )
    parts = {"pipelines": of, "predictions": SimpleNamespace(serving=lambda: told)}
    assert platform(monkeypatch, stopping, **parts)("resume", "loans").endswith(said)
