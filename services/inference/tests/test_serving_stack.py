"""Promoted versions are served, what is wrong is not, every prediction is recorded, and what is
killed comes back: on the real parts.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import orjson
import psutil
import pytest
from confluent_kafka import Consumer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from penstock.contracts.errors import Unavailable
from penstock.contracts.services import PLATFORM
from penstock.inference.v1 import inference_pb2, inference_pb2_grpc
from penstock.packages.keys import Keys
from penstock.status.v1 import status_pb2, status_pb2_grpc
from penstock.testing import lending, packages
from penstock.testing.packages import promotion
from penstock.testing.processes import below
from penstock.testing.stack import StackUnderTest, running_stack
from penstock.testing.wait import until

if TYPE_CHECKING:
    from calls import Door

    from penstock.testing.promoting import Registry

pytestmark = pytest.mark.process

Published = Callable[[], list[dict[str, Any]]]
OIP = "/inference.GRPCInferenceService/"
CLIENTS = 2  # that call at once
NOTICED_WITHIN_S = 1.0  # from its end until everybody has read that its connections are closed
REOPENED_WITHIN_S = 1.0  # from its renaming until a call writes another log; a tenth of a second by itself


@pytest.fixture(scope="module")
def house() -> Iterator[StackUnderTest]:
    """Kafka, Triton, Envoy and inference alone."""
    with running_stack(["inference"]) as stack:
        yield stack


@pytest.fixture(scope="module")
def registry(house: StackUnderTest) -> Registry:
    from penstock.testing.promoting import Registry

    return Registry.at(house.home, house.stack.admin)


@pytest.fixture(scope="module")
def door(house: StackUnderTest) -> Door:
    from calls import Door

    return Door(house.endpoint)


@pytest.fixture(scope="module")
def serving(door: Door) -> Callable[[], inference_pb2.Serving]:
    stub = inference_pb2_grpc.InferenceServiceStub(door.channel)

    def ask() -> inference_pb2.Serving:
        try:
            found = stub.GetServing(inference_pb2.GetServingRequest(), timeout=5).pipelines
        except grpc.RpcError:
            return inference_pb2.Serving()
        return found[0] if found else inference_pb2.Serving()

    return ask


@pytest.fixture
def served(registry: Registry, serving: Callable[[], inference_pb2.Serving], house: StackUnderTest) -> int:
    """A generation that is served."""
    if not serving().generation:
        registry.promote()
    until(lambda: serving().generation, what="a version is served")
    house.ready()
    return serving().generation


@pytest.fixture(scope="module")
def published(house: StackUnderTest) -> Iterator[Published]:
    """Every prediction so far, in order."""
    found: list[dict[str, Any]] = []
    consumer = Consumer(
        house.stack.kafka.client(
            group_id="test",
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            topic_metadata_refresh_interval_ms=200,
        )
    )
    consumer.subscribe(["loans.predictions.v1"])

    def read() -> list[dict[str, Any]]:
        found.extend(
            orjson.loads(message.value()) for message in consumer.consume(5000, 0.2) if not message.error()
        )
        return found

    yield read
    consumer.close()


def recorded(published: Published, *ids: str | None) -> list[dict[str, Any]]:
    until(
        lambda: set(ids) <= {prediction["id"] for prediction in published()},
        what="the predictions are recorded",
    )
    return [prediction for prediction in published() if prediction["id"] in ids]


def status_of(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value.code().name, raised.value.details()


# -- the door --------------------------------------------------------------------------------------


def test_a_prediction_is_recorded_field_by_field_however_it_was_asked(
    door: Door, served: int, published: Published
) -> None:
    over_grpc = door.infer(
        1.0, "car", metadata=[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]
    )
    compressed = door.infer(None, "", compression=grpc.Compression.Gzip)
    status, body, headers = door.http_infer(-1.0, "home")
    assert (status, json.loads(body)["outputs"][0]["data"]) == (200, ["false"])
    first, second, third = (
        recorded(published, answer)[0]
        for answer in (over_grpc.id, compressed.id, headers["x-penstock-prediction"])
    )
    assert (first["inputs"], first["decisions"], first["generation"]) == (
        {"income": [1.0], "purpose": ["car"]},
        ["true"],
        served,
    )
    assert first["probabilities"][0] == pytest.approx([0.25, 0.75])
    assert first["traceparent"] == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert (second["inputs"], second["rows"], second["protocol"]) == (
        {"income": [None], "purpose": [None]},
        1,
        "grpc",
    )
    assert (third["inputs"], third["decisions"], third["protocol"]) == (
        {"income": [-1.0], "purpose": ["home"]},
        ["false"],
        "http",
    )
    assert {prediction["undecoded"] for prediction in (first, second, third)} == {None}


def test_nobody_chooses_an_id(door: Door, served: int, published: Published) -> None:
    forged = "11111111-1111-1111-1111-111111111111"
    answer = door.infer(metadata=[("x-penstock-prediction", forged), ("x-request-id", forged)])
    _, _, headers = door.http_infer(x_penstock_prediction=forged, x_request_id=forged)
    ids = {answer.id, headers["x-penstock-prediction"]}
    assert len(ids) == 2
    recorded(published, *ids)
    assert forged not in {prediction["id"] for prediction in published()}


def test_bad_input_gets_the_right_status_and_a_sentence(door: Door, served: int) -> None:
    from penstock_inference.serving.triton import infer_request

    wrong_shape = infer_request("loans", None, [[1.0, 2.0, 3.0]], [["car"]])
    said = status_of(lambda: door.stub.ModelInfer(wrong_shape, timeout=5))
    assert said[0] == "INVALID_ARGUMENT"
    assert "unexpected shape for input 'numbers'" in said[1]
    assert status_of(lambda: door.infer(model="loan")) == (
        "NOT_FOUND",
        "Request for unknown model: 'loan' is not found",
    )
    assert status_of(lambda: door.infer(version=999))[0] == "NOT_FOUND"
    too_large = door.channel.unary_unary(OIP + "ModelInfer")
    assert status_of(lambda: too_large(b"x" * (65 << 20), timeout=20)) == (
        "RESOURCE_EXHAUSTED",
        "the request is larger than 64 MiB: send fewer rows at once",
    )
    assert door.http("POST", "/v2/models/loans/infer", b" " * (65 << 20))[0] == 413
    assert door.http("POST", "/v2/models/loans/infer", b"{")[0] == 400


def test_a_passed_deadline_is_told(door: Door, house: StackUnderTest, served: int) -> None:
    triton = house.pid("triton")
    os.kill(triton, signal.SIGSTOP)
    try:
        assert status_of(lambda: door.infer(timeout=0.3))[0] == "DEADLINE_EXCEEDED"
    finally:
        os.kill(triton, signal.SIGCONT)
    assert door.infer().version == served


@pytest.mark.parametrize(
    "method",
    [
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "RepositoryIndex",
        "ModelStatistics",
        "ModelConfig",
        "SystemSharedMemoryStatus",
        "LogSettings",
    ],
)
def test_what_changes_or_watches_triton_is_closed(door: Door, served: int, method: str) -> None:
    assert status_of(lambda: door.channel.unary_unary(OIP + method)(b"", timeout=5)) == (
        "PERMISSION_DENIED",
        "not through the front door",
    )


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2", 200),
        ("GET", "/v2/health/live", 200),
        ("GET", "/v2/health/ready", 200),
        ("GET", "/v2/models/loans", 200),
        ("GET", "/v2/models/loans/ready", 200),
        ("GET", "/v2/models/stats", 403),
        ("GET", "/v2/models/loans/stats", 404),
        ("GET", "/v2/models/loans/config", 404),
        ("POST", "/v2/repository/index", 404),
        ("POST", "/v2/repository/models/loans/unload", 404),
        ("POST", "/v2/models/loans/../../repository/models/loans/unload", 404),
        ("POST", "/v2//repository/index", 404),
        ("POST", "/v2/models/loans%2finfer", 400),
        ("GET", "/v2/models/loans.candidate.x/ready", 404),
    ],
)
def test_paths(door: Door, served: int, method: str, path: str, status: int) -> None:
    assert door.http(method, path)[0] == status


def test_only_our_services_have_a_way_in(door: Door, served: int) -> None:
    unknown = "there is no such method or path at this door"
    for path in (
        "/penstock.door.v1.Health/Check",
        "/penstock.inference.v10.InferenceService/Predict",
        "/other.Service/Call",
    ):
        assert status_of(lambda path=path: door.channel.unary_unary(path)(b"", timeout=5)) == (
            "UNIMPLEMENTED",
            unknown,
        )


def test_the_door_answers_health_reflection_and_status_for_all(door: Door, served: int) -> None:
    health = health_pb2_grpc.HealthStub(door.channel)
    states = health_pb2.HealthCheckResponse

    def state(name: str) -> Any:
        return health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5).status

    assert state("penstock.inference.v1.InferenceService") == states.SERVING
    assert state("inference.GRPCInferenceService") == states.SERVING
    assert (
        next(
            iter(
                health.Watch(
                    health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService"), timeout=5
                )
            )
        ).status
        == states.SERVING
    )
    assert status_of(lambda: state("penstock.trainer.v1.Trainer"))[0] == "NOT_FOUND"
    names = ProtoReflectionDescriptorDatabase(door.channel).get_services()
    assert {
        "penstock.trainer.v1.TrainerService",
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
    } <= set(names)
    status = status_pb2_grpc.StatusServiceStub(door.channel)
    services = {
        service.service: service
        for service in status.GetStatus(status_pb2.GetStatusRequest(), timeout=5).services
    }
    assert services["inference"].ready
    assert services.keys() == PLATFORM.keys()
    assert "loans@" in services["inference"].facts[0]


# -- Predict ---------------------------------------------------------------------------------------


def predict(door: Door, pipeline: str = "loans", **fields: Any) -> inference_pb2.PredictResponse:
    given = {name: inference_pb2.Value(**{kind: value}) for name, (kind, value) in fields.items()}
    request = inference_pb2.PredictRequest(pipeline=pipeline, fields=inference_pb2.Fields(fields=given))
    return inference_pb2_grpc.InferenceServiceStub(door.channel).Predict(request, timeout=5)


def test_predict_by_fields_makes_one_record(door: Door, served: int, published: Published) -> None:
    response = predict(door, income=("number", 1.0), purpose=("text", "car"))
    assert (response.decision, response.generation) == ("true", served)
    assert dict(response.probabilities) == pytest.approx({"false": 0.25, "true": 0.75})
    (record,) = recorded(published, response.prediction)
    assert record["inputs"] == {"income": [1.0], "purpose": ["car"]}


def test_predict_says_what_is_wrong(door: Door, served: int) -> None:
    assert status_of(lambda: predict(door, "loan")) == (
        "NOT_FOUND",
        "no pipeline 'loan' is served. Did you mean 'loans'?",
    )
    assert status_of(lambda: predict(door, incom=("number", 1.0))) == (
        "INVALID_ARGUMENT",
        "incom: loans has no feature 'incom'. Did you mean 'income'?",
    )
    assert status_of(lambda: predict(door, income=("text", "x"))) == (
        "INVALID_ARGUMENT",
        "income: must be a number, this is a text: 'x'",
    )
    by_entity = inference_pb2.PredictRequest(pipeline="loans", entity="a1")
    code, said = status_of(
        lambda: inference_pb2_grpc.InferenceServiceStub(door.channel).Predict(by_entity, timeout=3)
    )
    assert code in {
        "UNAVAILABLE",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
    }  # no feature store runs here, or another stack's, which knows nothing
    assert said


# -- what is not served ----------------------------------------------------------------------------


def stranger(tmp_path: Path) -> Keys:
    keys = Keys(tmp_path / "strange")
    keys.ensure()
    return keys


def cut(package: Path) -> None:
    graph = package / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])


@pytest.mark.parametrize(
    "how",
    [
        "changed bytes",
        "another's keys",
        "an answer that is not the package's",
        "old",
        "without evidence",
        "another's evidence",
    ],
)
def test_what_is_wrong_is_never_loaded_and_says_why(
    how: str,
    door: Door,
    served: int,
    registry: Registry,
    serving: Callable[[], inference_pb2.Serving],
    tmp_path: Path,
) -> None:
    from penstock.testing.promoting import changed

    last = registry.generation
    match how:
        case "changed bytes":
            bad, reason = registry.version(spoil=cut), "the file is not the one that the manifest lists"
        case "another's keys":
            bad, reason = registry.version(keys=stranger(tmp_path)), "is not in the trust store"
        case "an answer that is not the package's":
            bad, reason = registry.version(bias=1.0), "it does not answer as its package says: probe row 1"
        case "old":
            bad, reason = (
                promotion(
                    registry.keys,
                    registry.version().version,
                    *registry.made[-1].evidence,
                    generation=served - 1 or 1,
                ),
                "does not rise",
            )
        case "without evidence":
            bad, reason = changed(registry.version(), evidence=()), "evidence is one signed verdict"
        case _:
            other = registry.made[0]
            bad = promotion(registry.keys, registry.version().version, *other.evidence, generation=last + 1)
            reason = "the verdict is about"
    registry.publish(bad)
    until(lambda: serving().refused_digest == bad.version.digest, what="the refusal is told")
    assert reason in serving().refused_reason
    assert serving().generation == served
    assert door.infer().version == served


# -- changes under load ----------------------------------------------------------------------------


def test_a_switch_under_load_fails_no_request(
    door: Door,
    house: StackUnderTest,
    served: int,
    registry: Registry,
    serving: Callable[[], inference_pb2.Serving],
    published: Published,
) -> None:
    from calls import load

    with load(house.endpoint) as calls:
        for _ in range(2):
            promoted = registry.promote()
            until(
                lambda promoted=promoted: serving().generation == promoted.generation,
                what="the new version is served",
            )
            done = len(calls.answered)
            until(lambda done=done: len(calls.answered) > done + 50, what="it answers")
    assert calls.failed == []
    assert calls.answered[-1].version == registry.generation
    found = recorded(published, *(answer.id for answer in calls.answered))
    assert {prediction["id"]: prediction["generation"] for prediction in found} == {
        answer.id: answer.version for answer in calls.answered
    }


def test_what_must_be_recorded_and_cannot_is_not_answered(
    door: Door,
    house: StackUnderTest,
    served: int,
    registry: Registry,
    serving: Callable[[], inference_pb2.Serving],
    published: Published,
) -> None:
    """A log on a full disk."""
    before = house.log("inference").count('"record": "required", "event": "door_written"')
    promoted = registry.promote(record="required")
    until(lambda: serving().generation == promoted.generation, what="the new version is served")
    written = '"record": "required", "event": "door_written"'
    until(lambda: house.log("inference").count(written) > before, what="the door knows")
    log, aside = house.home / "envoy" / "log" / "predictions.log", house.home / "envoy" / "aside"
    log.rename(aside)
    log.symlink_to("/dev/full")
    renamed = time.monotonic()

    def withheld() -> bool:
        late = time.monotonic() - renamed > REOPENED_WITHIN_S
        return not answers(door) or (late and pytest.fail("an answer goes out"))

    until(withheld, what="an answer is withheld")
    assert status_of(door.infer)[0] == "UNAVAILABLE"
    assert door.http_infer()[0] == 503
    until(lambda: "is no file" in status_of(door.infer)[1], what="the door is closed")
    assert (
        not inference_pb2_grpc.InferenceServiceStub(door.channel)
        .GetServing(inference_pb2.GetServingRequest(), timeout=5)
        .door_open
    )
    assert door.http("GET", "/v2/health/ready")[0] == 503
    log.unlink()
    aside.rename(log)
    until(lambda: answers(door), what="the door is open")
    recorded(published, door.infer().id)
    back = registry.promote()
    until(lambda: serving().generation == back.generation, what="the new version is served")


def test_killing_envoy_under_load_loses_and_doubles_no_record(
    house: StackUnderTest, served: int, published: Published
) -> None:
    from calls import load

    with load(house.endpoint) as calls:
        for _ in range(2):
            done = len(calls.answered)
            until(lambda done=done: len(calls.answered) > done + 200, what="calls are answered")
            house.kill("envoy")
            done = len(calls.answered)
            until(lambda done=done: len(calls.answered) > done + 200, what="calls are answered again")
    assert_recorded_once(published, [answer.id for answer in calls.answered])


def test_killing_inference_under_load_loses_and_doubles_no_record(
    house: StackUnderTest, served: int, published: Published
) -> None:
    from calls import load

    with load(house.endpoint) as calls:
        before = len(published())
        until(lambda: len(published()) > before + 100, what="predictions are recorded")
        house.kill("inference")
        until(lambda: house.pid("inference"), what="inference is started again")
        house.ready("inference")
        done = len(calls.answered)
        until(lambda done=done: len(calls.answered) > done + 100, what="calls are answered")
    assert calls.failed == []  # clients do not notice
    assert_recorded_once(published, [answer.id for answer in calls.answered])


def test_http_survives_the_kill_of_inference_of_the_gateway_and_of_triton(
    door: Door, house: StackUnderTest, served: int, published: Published
) -> None:
    """Only what was sent to a gateway or Triton that ends may fail: a client's call on its way, and
    its next one where Envoy has not yet read that another of its connections is closed too.
    """
    ids: list[str | None] = []
    failed: list[tuple[int, float]] = []  # status, and when the call began
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            began = time.monotonic()
            status, _, headers = door.http_infer()
            if status == 200:
                ids.append(headers["x-penstock-prediction"])
            else:
                failed.append((status, began))

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client) for _ in range(CLIENTS)]
        try:
            for program, most in (("inference", 0), ("gateway", 2 * CLIENTS), ("triton", 2 * CLIENTS)):
                failed.clear()
                done, killed = len(ids), house.kill(program)
                until(lambda killed=killed: not psutil.pid_exists(killed), what=f"{program} has ended")
                ended = time.monotonic()
                until(lambda done=done: len(ids) > done + 100, what="calls are answered again")
                house.ready()
                assert len(failed) <= most, program
                late = [(status, began - ended) for status, began in failed]
                assert all(status == 503 and after < NOTICED_WITHIN_S for status, after in late), late
        finally:
            stop.set()
        for one in clients:
            one.result()
    assert_recorded_once(published, ids)


def assert_recorded_once(published: Published, answered: list[str | None]) -> None:
    recorded(published, *answered)
    ids = [prediction["id"] for prediction in published()]
    assert len(ids) == len(set(ids))


def test_a_killed_model_process_is_healed(door: Door, house: StackUnderTest, served: int) -> None:
    stubs = below(house.pid("triton"), "triton_python_backend_stub")
    assert stubs
    for stub in stubs:
        stub.kill()
    until(lambda: answers(door), what="the model answers again")
    until(lambda: "healed" in house.log("inference"), what="inference says that it healed it")
    assert door.infer().version == served


def test_triton_comes_back_empty_and_serves_again_without_an_event(
    door: Door, house: StackUnderTest, served: int
) -> None:
    restored = house.log("inference").count('"restored"')
    house.kill("triton")
    until(
        lambda: house.log("inference").count('"restored"') > restored,
        what="inference has loaded what was served",
    )
    until(lambda: answers(door), what="the model is served again")
    assert door.infer().version == served
    house.ready()


def test_a_call_waits_for_a_served_model_that_triton_does_not_know_yet(
    door: Door, house: StackUnderTest, served: int
) -> None:
    """Triton that has just started says that it knows no model, before inference has seen it."""
    routes = house.home / "envoy" / "rds.json"
    until(lambda: "'loans'" in routes.read_text(), what="the door knows what is served")
    house.stop("inference")
    house.kill("triton")
    until(lambda: triton_knows(house) == {}, what="Triton is back, and empty")
    with ThreadPoolExecutor(2) as pool:
        calls = pool.submit(door.http_infer), pool.submit(door.infer, timeout=30)
        assert status_of(lambda: door.infer(model="nobody"))[0] == "NOT_FOUND"
        house.start("inference")
        (status, body, _), answer = (call.result() for call in calls)
    assert status == 200, body
    assert answer.version == served
    house.ready()


def triton_knows(house: StackUnderTest) -> dict[str, frozenset[int]] | None:
    """Versions by model; None while Triton is away."""
    from penstock_inference.serving.triton import Triton

    async def ask() -> dict[str, frozenset[int]]:
        async with Triton(house.stack.file.triton_grpc) as triton:
            return await triton.loaded()

    try:
        return asyncio.run(ask())
    except Unavailable:
        return None


def test_a_restart_serves_what_was_served_and_takes_nothing_older(
    door: Door,
    house: StackUnderTest,
    served: int,
    serving: Callable[[], inference_pb2.Serving],
    registry: Registry,
) -> None:
    house.stop("triton")
    house.kill("inference")
    house.start("triton")
    until(lambda: answers(door), what="the model is served again")
    assert door.infer().version == served
    house.ready()
    assert serving().generation == served


def test_a_restart_without_the_trust_store_goes_on_serving(
    door: Door, house: StackUnderTest, served: int, serving: Callable[[], inference_pb2.Serving]
) -> None:
    """Models that Triton has were verified before, and stay until they can be judged again."""
    keys = house.home / "keys"
    house.stop("inference")
    away = keys.rename(keys.with_name("keys-away"))
    try:
        house.start("inference")
        house.waits("inference", "model loans")
        for _ in range(20):
            assert door.infer().version == served
        code, why = status_of(lambda: predict(door, income=("number", 1.0)))
        assert (code, "not verified yet" in why) == ("UNAVAILABLE", True)
    finally:
        away.rename(keys)
    house.ready()
    assert door.infer().version == served
    assert serving().generation == served


def answers(door: Door) -> bool:
    try:
        door.infer(timeout=2)
    except grpc.RpcError:
        return False
    return True


# -- stopped by a person ---------------------------------------------------------------------------


def test_what_is_stopped_answers_nobody_until_it_is_resumed(
    door: Door,
    house: StackUnderTest,
    served: int,
    registry: Registry,
    serving: Callable[[], inference_pb2.Serving],
) -> None:
    """A restart brings it back as little as a promotion, and what was promoted meanwhile answers then."""
    why = "wrong for women"
    stopped = lending.spec(serving={"stopped": why})
    registry.publish(packages.applied(registry.keys, number=1, spec=stopped))
    until(lambda: serving().stopped == why and not serving().digest, what="nothing serves")
    assert status_of(lambda: predict(door, income=("number", 1.0))) == (
        "FAILED_PRECONDITION",
        f"loans is stopped: {why}. penstock resume loans has it answer again",
    )
    until(lambda: not answers(door), what="Triton has unloaded it")
    gone = "Request for unknown model: 'loans'"
    until(lambda: gone in status_of(door.infer)[1], what="the door does not wait for it any more")
    promoted = registry.promote()
    house.kill("inference")
    until(lambda: serving().stopped == why, what="it knows after a restart")
    house.ready()
    assert not serving().digest
    assert not answers(door)
    registry.publish(packages.applied(registry.keys, number=2, spec=lending.spec()))
    until(lambda: serving().generation == promoted.generation, what="what was promoted meanwhile serves")
    assert door.infer().version == promoted.generation
    registry.publish(packages.applied(registry.keys, number=3, spec=stopped))
    until(lambda: not answers(door), what="it is stopped again")
    registry.publish(packages.applied(registry.keys, number=4, spec=lending.spec()))
    until(lambda: answers(door), what="the same version serves again, without a promotion")
    assert door.infer().version == promoted.generation
