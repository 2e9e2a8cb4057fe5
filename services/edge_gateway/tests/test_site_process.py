"""The site as a process: it answers from its disk with nothing else in the world, in every way of
calling alike, and loads none of what the platform needs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grpc
import numpy as np
import orjson
import pytest
from recording_hub import RecordingHub
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput, service_pb2

from penstock.contracts.error_details import error_of_call
from penstock.contracts.errors import Conflict, Invalid, NotFound
from penstock.edge_gateway.v1 import hub_pb2, site_pb2
from penstock.edge_gateway.v1.site_pb2_grpc import SiteServiceStub
from penstock.inference.v1 import inference_pb2 as pb
from penstock.inference.v1.inference_pb2_grpc import InferenceServiceStub
from penstock.packages import trust_updates
from penstock.packages.admission import Admission, from_artifacts
from penstock.packages.keys import Keys
from penstock.runtime.readiness import Readiness
from penstock.runtime.settings import KafkaSettings
from penstock.status.v1 import status_pb2
from penstock.status.v1.status_pb2_grpc import StatusServiceStub
from penstock.testing import lending, packages
from penstock.testing.broker import free_ports
from penstock.testing.promoting import NAME, Registry
from penstock.testing.wait import until, until_async
from penstock_edge_gateway.pseudonyms import pseudonym
from penstock_edge_gateway.site.identity import SiteIdentity
from penstock_edge_gateway.site.pipelines import Pipelines
from penstock_edge_gateway.site.serving import Serving
from penstock_edge_gateway.site.trial import Bounds
from penstock_edge_gateway.site.trust import SiteTrust
from penstock_edge_gateway.site.versions import Versions

pytestmark = pytest.mark.process

HEAVY = "confluent_kafka faststream kafka sqlalchemy alembic psycopg torch feast ray model_signing pandas"
PROGRAM = f"""
    import atexit, sys
    from pathlib import Path
    heavy = set("{HEAVY}".split())
    atexit.register(lambda: Path(sys.argv[1]).write_text(" ".join(sorted(heavy & sys.modules.keys()))))
    from penstock_edge_gateway.site.__main__ import main
    main([])
"""


class Running:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.port, self.http = free_ports(2)
        environment = os.environ | {
            "PENSTOCK_SITE__HOME": str(home),
            "PENSTOCK_SITE__PORT": str(self.port),
            "PENSTOCK_SITE__HTTP_PORT": str(self.http),
        }
        self.modules = home / "modules"
        self.log = home / "log"
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), str(self.modules)],
            env=environment,
            stderr=self.log.open("wb"),
        )
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        grpc.channel_ready_future(self.channel).result(60)

    def records(self) -> list[dict[str, Any]]:
        with sqlite3.connect(self.home / "predictions.db") as spool:
            return [orjson.loads(body) for (body,) in spool.execute("SELECT body FROM records")]

    def stop(self) -> None:
        self.channel.close()
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(30):
            raise AssertionError(self.log.read_text())

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


async def take(home: Path, registry: Registry) -> None:
    """Has the site's disk hold a version, as if the hub had granted it."""
    clock = lambda: datetime.now(UTC)  # noqa: E731
    fetch = from_artifacts(registry.artifacts.fetch)
    admission = Admission(fetch, home / "keys", home / "packages")
    bounds = Bounds(calls=1, errors=0, p99_ms=60_000)
    serving = Serving(Versions(home / "versions"), admission, bounds, Readiness(clock), clock, lambda _: "")
    serving.promoted(registry.version())
    running = asyncio.create_task(serving.run())
    await until_async(lambda: serving.models)
    running.cancel()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("site")
    (nobody,) = free_ports(1)
    SiteIdentity("branch-1", f"127.0.0.1:{nobody}", "", "", "").save(home)
    asyncio.run(take(home, Registry.at(home, KafkaSettings())))
    running = Running(home)
    yield running
    running.kill()


def request(purpose: bytes = b"car") -> Any:
    made = service_pb2.ModelInferRequest(model_name=NAME, id="7")
    for name, datatype, value in (("numbers", "FP64", 1.0), ("strings", "BYTES", purpose)):
        tensor = InferInput(name, [1, 1], datatype)
        tensor.set_data_from_numpy(np.array([[value]], object if datatype == "BYTES" else "f8"))
        made.inputs.append(tensor._get_tensor())
        made.raw_input_contents.append(tensor._get_content())
    return made


def infer(site: Running, asked: Any) -> tuple[Any, Any]:
    call = site.channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        service_pb2.ModelInferRequest.SerializeToString,
        service_pb2.ModelInferResponse.FromString,
    )
    answer, told = call.with_call(asked, timeout=10)
    return answer, told


def post(site: Running, model: str, inputs: dict[str, tuple[str, Any]]) -> tuple[Any, Any]:
    told = [
        {"name": name, "datatype": datatype, "shape": [1, 1], "data": [value]}
        for name, (datatype, value) in inputs.items()
    ]
    address = f"http://127.0.0.1:{site.http}/v2/models/{model}/infer"
    with urlopen(Request(address, orjson.dumps({"inputs": told}))) as answer:
        return orjson.loads(answer.read()), answer.headers


def test_it_answers_as_its_package_says_in_every_way_of_calling(site: Running) -> None:
    answer, told = infer(site, request())
    assert (answer.model_version, answer.id) == ("1", "7")
    assert [(one.name, one.datatype, list(one.shape)) for one in answer.outputs] == [
        ("decision", "BYTES", [1, 1]),
        ("probabilities", "FP32", [1, 2]),
    ]
    prediction = dict(told.trailing_metadata())["x-penstock-prediction"]
    fields = pb.Fields(fields={"income": pb.Value(number=1.0), "purpose": pb.Value(text="car")})
    by_fields = InferenceServiceStub(site.channel).Predict(
        pb.PredictRequest(pipeline=NAME, fields=fields), timeout=10
    )
    assert by_fields.decision == "true"
    assert dict(by_fields.probabilities) == pytest.approx({"false": 0.25, "true": 0.75})
    over_http, headers = post(site, NAME, {"numbers": ("FP64", 1.0), "strings": ("BYTES", "car")})
    assert {one["name"]: one["data"] for one in over_http["outputs"]}["decision"] == ["true"]
    assert answer.parameters["served_by"].string_param == by_fields.served_by == "site"
    assert answer.parameters["confidence"].double_param == pytest.approx(0.5)
    assert by_fields.confidence == pytest.approx(0.5)
    assert over_http["parameters"] == pytest.approx({"served_by": "site", "confidence": 0.5})
    first, second, third = site.records()
    ids = [prediction, by_fields.prediction, headers["x-penstock-prediction"]]
    assert [one["id"] for one in (first, second, third)] == ids
    assert [one["protocol"] for one in (first, second, third)] == ["grpc", "grpc", "http"]
    same = ("pipeline", "digest", "generation", "rows", "inputs", "probabilities", "decisions", "site")
    assert [first[key] for key in same] == [second[key] for key in same] == [third[key] for key in same]
    assert first["inputs"] == {"income": [1.0], "purpose": ["car"]}
    assert (first["site"], first["undecoded"]) == ("branch-1", None)


def test_an_unmodified_client_finds_its_way(site: Running) -> None:
    with InferenceServerClient(f"127.0.0.1:{site.port}") as client:
        assert client.is_server_live()
        until(client.is_server_ready, what="it is ready")
        assert client.is_model_ready(NAME)
        assert not client.is_model_ready(NAME, "2")
        described = client.get_model_metadata(NAME)
        assert [(one.name, list(one.shape)) for one in described.inputs] == [
            ("numbers", [-1, 1]),
            ("strings", [-1, 1]),
        ]
        assert client.get_server_metadata().name == "penstock-site"
        inputs = [InferInput("numbers", [2, 1], "FP64"), InferInput("strings", [2, 1], "BYTES")]
        inputs[0].set_data_from_numpy(np.array([[1.0], [np.nan]]))
        inputs[1].set_data_from_numpy(np.array([[b"car"], [b""]], object))
        found = client.infer(NAME, inputs, outputs=[InferRequestedOutput("decision")])
        assert found.as_numpy("decision").tolist() == [[b"true"], [b"false"]]
        assert found.as_numpy("probabilities") is None


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"model_name": "loan"}, NotFound, "Did you mean 'loans'"),
        ({"model_version": "9"}, NotFound, "serves generation 1, not 9"),
        ({"inputs": [], "raw_input_contents": []}, Invalid, "there are no inputs"),
    ],
)
def test_what_it_does_not_take_it_names(site: Running, change: dict[str, Any], kind: type, said: str) -> None:
    asked = request()
    for name, value in change.items():
        if isinstance(value, str):
            setattr(asked, name, value)
        else:
            asked.ClearField(name)
    with pytest.raises(grpc.RpcError) as raised:
        infer(site, asked)
    error = error_of_call(raised.value)
    assert isinstance(error, kind)
    assert said in str(error)


def test_over_http_a_mistake_has_its_status_and_its_reason(site: Running) -> None:
    row = {"numbers": ("FP64", 1.0), "strings": ("BYTES", "car")}
    for model, inputs, status, said in (
        ("loan", row, 404, "Did you mean 'loans'"),
        (
            NAME,
            {"numbers": ("FP32", 1.0), "strings": ("BYTES", "car")},
            400,
            "numbers is of FP32, not of FP64",
        ),
        (NAME, {"numbers": ("FP64", 1.0)}, 400, "has the inputs numbers, strings, given are numbers"),
    ):
        with pytest.raises(HTTPError) as raised:
            post(site, model, inputs)
        assert raised.value.code == status
        assert said in orjson.loads(raised.value.read())["error"]


def test_an_entity_is_asked_of_the_cloud(site: Running) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        InferenceServiceStub(site.channel).Predict(pb.PredictRequest(pipeline=NAME, entity="a1"), timeout=10)
    assert "a site predicts by fields" in str(error_of_call(raised.value))


def test_it_stops_and_had_loaded_nothing_of_the_platform(site: Running) -> None:
    site.stop()
    assert site.modules.read_text() == ""
    assert '"event": "stopping"' in site.log.read_text()


def test_what_may_not_leave_is_in_no_file_of_a_site_and_never_on_the_wire(site: Running) -> None:
    edge = {"may_leave": ["income", "defaulted"], "pseudonymize": ["sex", "applicant_id"]}
    keys, key = site.home / "keys", bytes(range(100, 132))
    Pipelines(site.home / "pipelines", keys).apply(packages.applied(Keys(keys), spec=lending.spec(edge=edge)))
    SiteTrust(site.home).begin(trust_updates.written(trust_updates.read(keys)))
    event = {"application_id": "a1", "applicant_id": "canary-6", "at": "2026-03-01T12:00:00Z", "income": 1.0}
    events = [
        event | {"purpose": "canary-3", "sex": "canary-7"},
        event | {"income": "canary-4"},
        event | {"other": "canary-5"},
    ]
    asked = site_pb2.PublishRequest(
        pipeline=NAME, source="applications", events=[orjson.dumps(one) for one in events]
    )
    hub = RecordingHub(hub_pb2.WatchResponse(pseudonym_keys={NAME: key}))
    with hub.serving("branch-1") as identity:
        identity.save(site.home)
        again = Running(site.home)
        try:
            until(lambda: infer(again, request(b"canary-1")), what="it answers", despite=grpc.RpcError)
            with pytest.raises(grpc.RpcError):
                infer(again, request(b"canary-2\xff"))
            publish = SiteServiceStub(again.channel).Publish
            traced = [("traceparent", f"00-{'a' * 32}-{'b' * 16}-01")]
            answer = until(
                lambda: publish(asked, timeout=10, metadata=traced),
                what="its key came",
                despite=grpc.RpcError,
            )
            sex = pseudonym(key, "sex", "canary-7").encode()
            until(
                lambda: all(part in b"".join(hub.heard["Forward"]) for part in (sex, b"probabilities")),
                what="both lanes forward",
            )
            until(lambda: hub.heard["Watch"][1:], what="it tells its status")
            status = SiteServiceStub(again.channel).GetStatus(site_pb2.GetStatusRequest(), timeout=10)
            again.stop()
        finally:
            again.kill()
    assert (answer.accepted, len(answer.rejected)) == (1, 2)
    assert status.trust_signed_at.ToDatetime(UTC) == trust_updates.newest(trust_updates.read(keys))[1]
    assert again.records()[-1]["inputs"] == {"income": [1.0], "purpose": [None]}
    told = b"".join(one for calls in hub.heard.values() for one in calls)
    assert b"canary" not in told
    files = [file for file in site.home.rglob("*") if file.is_file()]
    assert {"log", "events.db", "predictions.db"} <= {file.name for file in files}
    assert any("traces" in file.parts for file in files)
    assert [file for file in files if b"canary" in file.read_bytes()] == []
    assert [file.name for file in files if key in file.read_bytes()] == [f"{NAME}.key"]


def test_a_stop_is_told_to_who_asks_for_a_prediction_what_serves_or_the_status(site: Running) -> None:
    keys, spec = Keys(site.home / "keys"), lending.spec(serving={"stopped": "wrong for women"})
    Pipelines(site.home / "pipelines", keys.directory).apply(packages.applied(keys, spec=spec, number=9))
    again = Running(site.home)
    try:
        inference = InferenceServiceStub(again.channel)
        (serves,) = inference.GetServing(pb.GetServingRequest(), timeout=10).pipelines
        with pytest.raises(grpc.RpcError) as raised:
            inference.Predict(pb.PredictRequest(pipeline=NAME, fields=pb.Fields()), timeout=10)
        told = StatusServiceStub(again.channel).GetStatus(status_pb2.GetStatusRequest(), timeout=10)
        again.stop()
    finally:
        again.kill()
    assert (serves.pipeline, serves.digest, serves.stopped) == (NAME, "", "wrong for women")
    error = error_of_call(raised.value)
    assert isinstance(error, Conflict)
    assert "loans is stopped: wrong for women" in str(error)
    facts = told.services[0].facts
    assert "loans is stopped: wrong for women" in facts
    assert not any(fact.startswith("loans@") for fact in facts)
