"""A start of each service: before it knows what its topics hold it denies nothing, and says what it
waits for; with what its database keeps it answers, whoever else is away.
"""

from __future__ import annotations

import os
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from confluent_kafka import Producer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from penstock.contracts.events import (
    AuditCompleted,
    Event,
    encode,
)
from penstock.contracts.topics import SHARED, pipeline_topics
from penstock.ethics_audit.v1 import ethics_audit_pb2, ethics_audit_pb2_grpc
from penstock.feature_store.v1 import feature_store_pb2, feature_store_pb2_grpc
from penstock.inference.v1 import inference_pb2, inference_pb2_grpc
from penstock.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from penstock.model_registry.v1 import model_registry_pb2, model_registry_pb2_grpc
from penstock.packages.keys import Keys
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.store import Store
from penstock.serving.model import Layout
from penstock.status.v1 import status_pb2, status_pb2_grpc
from penstock.testing import packages as sample
from penstock.testing.broker import Kafka, free_ports
from penstock.testing.wait import until
from penstock_inference.store import admit, serve

pytestmark = pytest.mark.kafka

DIGEST = "sha256:" + "a" * 64
Ask = Callable[[grpc.Channel], Any]


class Way:
    """An address of the broker that leads nowhere before it is opened: Kafka is away until then."""

    def __init__(self, kafka: Kafka) -> None:
        (self.port,) = free_ports(1)
        host, port = kafka.bootstrap_servers.rsplit(":", 1)
        self._broker = (host, int(port))
        self._server: socketserver.ThreadingTCPServer | None = None

    def open(self) -> None:
        broker = self._broker

        class Through(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.create_connection(broker) as out:
                    back = threading.Thread(target=_copy, args=(out, self.request), daemon=True)
                    back.start()
                    _copy(self.request, out)
                    back.join()

        socketserver.ThreadingTCPServer.allow_reuse_address = True
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", self.port), Through)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    finally:
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


class Start:
    """One service as a process, and the topics that hold its past."""

    def __init__(self, service: str, kafka: Kafka, home: Path) -> None:
        self.service, self.home = service, home
        self._settings = kafka.settings(f"phases-{uuid.uuid4().hex[:8]}.")
        self._producer = Producer(self._settings.client())
        self._process: subprocess.Popen[bytes] | None = None
        (self.port,) = free_ports(1)
        ensure_topics(self._settings, [*SHARED, *pipeline_topics(sample.pipeline())])
        keys = Keys(home / "keys")
        keys.ensure(sample.NOW)
        result = Artifacts(f"file://{home}/artifacts").put_bytes("audits/result.json", b"{}")
        self._published(
            sample.applied(keys, number=7),
            sample.registered(keys, sample.version(DIGEST, keys)),
            AuditCompleted(
                audit_id="A1",
                pipeline="loans",
                digest=DIGEST,
                verdict="pass",
                gates=(sample.AUROC_PASSED, sample.gate()),
                evidence=sample.verdict(keys, DIGEST, result_digest=result.digest),
                report=sample.NOWHERE,
                result=result,
                scores=sample.NOWHERE,
                completed_at=sample.NOW,
            ),
        )

    def _published(self, *events: Event) -> None:
        for event in events:
            headers = [("ce_id", uuid.uuid4().hex.encode()), ("ce_type", event.ce_type().encode())]
            topic = self._settings.topic(event.topic)
            self._producer.produce(topic, encode(event), event.key.encode(), headers=headers)
        assert self._producer.flush(30) == 0

    def begin(self, way: Way) -> None:
        name = f"PENSTOCK_{self.service.upper()}__"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PENSTOCK_")}
        environment |= {
            "PENSTOCK_HOME": str(self.home),
            "PENSTOCK_ARTIFACTS": f"file://{self.home}/artifacts",
            "PENSTOCK_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{way.port}",
            "PENSTOCK_KAFKA__TOPIC_PREFIX": self._settings.topic_prefix,
            f"{name}PORT": str(self.port),
        }
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"penstock_{self.service}"], env=environment, stdout=log, stderr=log
            )
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        grpc.channel_ready_future(self.channel).result(60)

    def end(self) -> None:
        if self._process is not None:
            self.channel.close()
            self._process.terminate()
            assert self._process.wait(30) == 0
            self._process = None

    def status(self) -> status_pb2.ServiceStatus:
        stub = status_pb2_grpc.StatusServiceStub(self.channel)
        return stub.GetStatus(status_pb2.GetStatusRequest(), timeout=10).services[0]

    def waits_for(self) -> dict[str, str]:
        return {wait.thing: wait.why for wait in self.status().waiting}

    def last_words(self) -> str:
        return (self.home / "log").read_text()[-4000:]


def registry(channel: grpc.Channel) -> Any:
    stub = model_registry_pb2_grpc.ModelRegistryServiceStub(channel)
    return stub.GetPipeline(model_registry_pb2.GetPipelineRequest(pipeline="loans"), timeout=10).number == 7


def audit(channel: grpc.Channel) -> Any:
    stub = ethics_audit_pb2_grpc.EthicsAuditServiceStub(channel)
    found = stub.GetAudit(ethics_audit_pb2.GetAuditRequest(version=DIGEST), timeout=10)
    return (found.audit_id, found.verdict) == ("A1", "pass")


def inference(channel: grpc.Channel) -> Any:
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    return stub.GetServing(inference_pb2.GetServingRequest(), timeout=10)


def ingest(channel: grpc.Channel) -> Any:
    request = ingest_pb2.GetCountsRequest(pipeline="loans", source="applications")
    return ingest_pb2_grpc.IngestServiceStub(channel).GetCounts(request, timeout=10).partitions


def feature_store(channel: grpc.Channel) -> Any:
    stub = feature_store_pb2_grpc.FeatureStoreServiceStub(channel)
    return stub.GetPositions(feature_store_pb2.GetPositionsRequest(pipeline="loans"), timeout=10).sources


ASKS: dict[str, Ask] = {
    "model_registry": registry,
    "ethics_audit": audit,
    "inference": inference,
    "ingest": ingest,
    "feature_store": feature_store,
}
RESTARTED = ["model_registry", "ethics_audit", "inference", "feature_store"]


Scenario = Callable[[Start, Kafka], None]
Ended = dict[str, Future[None]]


@pytest.fixture(scope="module")
def goes_through(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Ended]]:
    """Lets several services go through the same, at the same time: a start is mostly waiting. Each test
    asks how it ended for one of them.
    """

    def one(scenario: Scenario, service: str) -> None:
        start = Start(service, kafka, tmp_path_factory.mktemp(service))
        try:
            scenario(start, kafka)
        except BaseException as error:
            error.add_note(start.last_words())
            raise
        finally:
            start.end()

    with ThreadPoolExecutor(len(ASKS)) as pool:
        yield lambda scenario, services: {one_: pool.submit(one, scenario, one_) for one_ in services}


@pytest.fixture(scope="module")
def without_its_past(goes_through: Callable[..., Ended]) -> Ended:
    return goes_through(denies_nothing_and_goes_on, ASKS)


@pytest.fixture(scope="module")
def restarted(goes_through: Callable[..., Ended]) -> Ended:
    return goes_through(answers_from_its_database, RESTARTED)


@pytest.mark.parametrize("service", ASKS)
def test_without_its_past_a_service_denies_nothing_and_goes_on_by_itself(
    without_its_past: Ended, service: str
) -> None:
    without_its_past[service].result()


@pytest.mark.parametrize("service", RESTARTED)
def test_after_a_restart_a_service_answers_from_its_database_while_kafka_is_away(
    restarted: Ended, service: str
) -> None:
    restarted[service].result()


def denies_nothing_and_goes_on(start: Start, kafka: Kafka) -> None:
    with closing(Way(kafka)) as way:
        start.begin(way)
        ask = ASKS[start.service]
        topics = until(lambda: start.waits_for().get("start", ""), what="it says what it waits for")
        assert topics.startswith("restores its state from ")
        assert "pipelines.v1" in topics
        with pytest.raises(grpc.RpcError) as caught:
            ask(start.channel)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert f"the service is not ready, it waits for start: {topics}" in str(caught.value.details())
        until(lambda: "tries" in start.waits_for().get("kafka", ""), what="it says that Kafka is away")
        _is_known(start)

        way.open()

        def answered() -> bool:
            try:
                return bool(ask(start.channel))
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    return False
                raise

        if start.service == "inference":  # serves nothing, and now knows it: an empty answer
            ask = lambda channel: inference(channel) is not None  # noqa: E731
        until(answered, what="it answers from what the topics hold")
        assert "start" not in start.waits_for()
        start.end()


def _is_known(start: Start) -> None:
    """Health and reflection answer, though it serves nothing yet."""
    health = health_pb2_grpc.HealthStub(start.channel)
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=5).status == 2, "not serving"
    reflected = reflection_pb2_grpc.ServerReflectionStub(start.channel).ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5
    )
    names = {one.name for one in next(iter(reflected)).list_services_response.service}
    assert any(name.startswith(f"penstock.{start.service}.v1.") for name in names)


def answers_from_its_database(start: Start, kafka: Kafka) -> None:
    ask = ASKS[start.service]
    if start.service == "inference":
        _serves(start)
        ask = lambda channel: [one.digest for one in inference(channel).pipelines] == [DIGEST]  # noqa: E731
    else:
        with closing(Way(kafka)) as way:
            way.open()
            start.begin(way)
            until(lambda: "start" not in start.waits_for(), what="its past is in the database")
            start.end()
    start.begin(Way(kafka))  # which is never opened
    until(lambda: "lake" not in start.waits_for(), what="the feature store has its lake")
    assert ask(start.channel)
    assert not start.status().ready
    assert "kafka" in start.waits_for()


def _serves(start: Start) -> None:
    """Its database says so; the trust store is away as well, so that nothing is verified meanwhile."""
    (start.home / "inference").mkdir(parents=True, exist_ok=True)
    store = Store.open(
        f"sqlite:///{start.home}/inference/inference.db", migrations="penstock_inference.migrations"
    )
    keys = Keys(start.home / "keys")
    promotion = sample.promotion(keys, sample.version(DIGEST, keys), sample.verdict(keys, DIGEST))
    with store.transaction() as effect:
        admit(effect, promotion, Layout(DIGEST, 1, ("income",), ("purpose",), frozenset()), sample.NOW)
        serve(effect, promotion, sample.NOW)
    store.close()
    shutil.rmtree(start.home / "keys")
