"""What bad input gets: a sentence that says what is wrong and what to do, and the next one goes on."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlparse

import grpc
import pytest
from census import PIPELINE, Event, Served, model_fields, pipeline_text, run_penstock
from load import infer_request
from tritonclient.grpc import service_pb2, service_pb2_grpc

from penstock.client.pipelines import BadPipelineFile
from penstock.contracts.errors import Invalid, NotFound, PenstockError
from penstock.testing.stack import StackUnderTest
from penstock.testing.wait import until
from penstock.trainer.v1 import trainer_pb2 as trainer

pytestmark = pytest.mark.stack


def without(event: Event, field: str) -> Event:
    return {key: value for key, value in event.items() if key != field}


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        ("one-class", lambda event: event | {"over_50k": False}, "none of 1,500 labels is `true`"),
        ("too-few", lambda event: event if str(event["person_id"]) < "p00020" else None, "rows"),
        ("always-missing", lambda event: without(event, "occupation"), "occupation"),
    ],
)
def test_data_that_cannot_train_a_model_fails_in_a_sentence(
    served: Served, name: str, spoil, said: str
) -> None:  # type: ignore[no-untyped-def]
    served.client.pipelines.apply(pipeline_text(name), by="test")
    events = [spoiled for event in served.events[:1500] if (spoiled := spoil(event)) is not None]
    served.journey.publish(name, "people", events)
    run = served.journey.run(name)
    assert run.state == trainer.Run.STATE_FAILED
    assert said in run.failure
    assert run.remedy


def test_a_bad_pipeline_is_refused_with_its_lines(
    served: Served, stack: StackUnderTest, tmp_path: Path
) -> None:
    text = pipeline_text().replace("from: people.over_50k", "from: people.over_5k")
    with pytest.raises(BadPipelineFile) as caught:
        served.client.pipelines.apply(text, file="pipeline.yaml")
    assert [problem.line for problem in caught.value.problems] == [
        text[: text.index("people.over_5k")].count("\n") + 1
    ]
    path = tmp_path / "pipeline.yaml"
    path.write_text(text)
    done = run_penstock(stack, "apply", str(path))
    assert done.returncode == 2
    assert "did you mean `people.over_50k`?" in done.stderr


def test_an_incompatible_change_is_refused_with_the_reason(served: Served) -> None:
    with pytest.raises(PenstockError, match="person_id"):
        served.client.pipelines.apply(pipeline_text().replace("key: person_id", "key: event_id"))
    assert served.client.pipelines.get(PIPELINE).number == 1


def test_an_unknown_model_entity_or_field_says_what_there_is(served: Served) -> None:
    fields = model_fields(served, served.events[0])
    with pytest.raises(NotFound, match="cencus"):
        served.client.predictions.by_fields("cencus", fields)
    with pytest.raises(NotFound, match="p99999"):
        served.client.predictions.by_entity(PIPELINE, "p99999")
    with pytest.raises(Invalid, match="Did you mean 'occupation'"):
        served.client.predictions.by_fields(PIPELINE, {"ocupation": "Sales"})
    with pytest.raises(Invalid, match="age"):
        served.client.predictions.by_fields(PIPELINE, {"age": "old"})


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        (lambda request: request.inputs[0].shape.__setitem__(1, 3), {grpc.StatusCode.INVALID_ARGUMENT}),
        (
            lambda request: setattr(request, "model_name", "nobody"),
            {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE},
        ),
        (lambda request: request.inputs.pop(), {grpc.StatusCode.INVALID_ARGUMENT}),
    ],
)
def test_a_wrong_tensor_gets_a_status_and_words(served: Served, change, codes: set[grpc.StatusCode]) -> None:  # type: ignore[no-untyped-def]
    request = infer_request(served)
    change(request)
    with (
        grpc.insecure_channel(served.client.settings.endpoint) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
    assert caught.value.code() in codes, caught.value
    assert caught.value.details()


def test_a_deadline_that_passed_says_so(served: Served) -> None:
    with (
        grpc.insecure_channel(served.client.settings.endpoint) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(
            infer_request(served, rows=64), timeout=0.0001
        )
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    "method", ["RepositoryModelLoad", "RepositoryModelUnload", "RepositoryIndex", "ModelStatistics"]
)
def test_the_doors_closed_methods_are_closed(served: Served, method: str) -> None:
    requests = {
        "RepositoryModelLoad": service_pb2.RepositoryModelLoadRequest(model_name=PIPELINE),
        "RepositoryModelUnload": service_pb2.RepositoryModelUnloadRequest(model_name=PIPELINE),
        "RepositoryIndex": service_pb2.RepositoryIndexRequest(),
        "ModelStatistics": service_pb2.ModelStatisticsRequest(name=PIPELINE),
    }
    with (
        grpc.insecure_channel(served.client.settings.endpoint) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        getattr(service_pb2_grpc.GRPCInferenceServiceStub(channel), method)(requests[method], timeout=10)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_a_tampered_package_is_never_loaded_and_the_reason_is_seen(
    served: Served, stack: StackUnderTest
) -> None:
    name = "tampered"
    text = pipeline_text(name, gates="[]", epochs=1, compare="none")
    served.client.pipelines.apply(text, by="test")
    served.journey.publish(name, "people", served.events[:2000])
    good = served.journey.train(name)
    served.journey.until_served(name, good.digest)
    with stack.without("inference"):
        bad = served.journey.train(name, {"trainer.epochs": 2})
        package = Path(urlparse(json.loads(bad.version_json)["package"]["uri"]).path)
        content = bytearray(package.read_bytes())
        content[len(content) // 2] ^= 1
        package.write_bytes(content)

    def refusal() -> str:
        found = [
            serving for serving in served.client.predictions.serving().pipelines if serving.pipeline == name
        ]
        return found[0].refused_reason if found and found[0].refused_digest == bad.digest else ""

    assert "sha256" in until(refusal, what="the refusal is seen")

    def facts() -> list[str]:
        (inference,) = (program for program in stack.stack.status() if program.program == "inference")
        return [fact for fact in inference.facts if name in fact and "sha256" in fact]

    until(facts, what="`penstock status` says it, too")
    served.journey.until_served(name, good.digest)
    assert (
        served.client.predictions.by_fields(name, model_fields(served, served.events[0])).digest
        == good.digest
    )
