"""Somebody holds every service's database for 20 s: calls that write wait for it, and nothing else does."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from confluent_kafka import Producer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy import text

from penstock.contracts.events import AuditCompleted, Event, encode
from penstock.contracts.topics import SHARED, pipeline_topics
from penstock.ethics_audit.v1 import ethics_audit_pb2, ethics_audit_pb2_grpc
from penstock.feature_store.v1 import feature_store_pb2, feature_store_pb2_grpc
from penstock.inference.v1 import inference_pb2, inference_pb2_grpc
from penstock.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from penstock.model_registry.v1 import model_registry_pb2, model_registry_pb2_grpc
from penstock.packages.keys import Keys
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.database import Database
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.store import Store
from penstock.serving.model import Layout
from penstock.testing import lending
from penstock.testing import packages as sample
from penstock.testing.broker import Kafka, free_ports
from penstock.testing.plugin import Databases
from penstock.testing.postgres import database_settings
from penstock.testing.wait import until
from penstock.trainer.v1 import trainer_pb2, trainer_pb2_grpc
from penstock.tuner.v1 import tuner_pb2, tuner_pb2_grpc
from penstock_inference.store import admit, serve

pytestmark = [pytest.mark.kafka, pytest.mark.process]

HOLD_S = 20.0
P99_S = 0.2
LONGEST_S = 1.0
WITHOUT_DATABASE = "ingest"
BUSY = 2.0  # times what that one takes meanwhile may take whoever has a database
DIGEST = "sha256:" + "a" * 64

Call = Callable[[grpc.Channel], Any]


def ingest(channel: grpc.Channel) -> Any:
    request = ingest_pb2.GetCountsRequest(pipeline="loans", source="applications")
    return ingest_pb2_grpc.IngestServiceStub(channel).GetCounts(request, timeout=60)


def feature_store(channel: grpc.Channel, pipeline: str = "loans") -> Any:
    stub = feature_store_pb2_grpc.FeatureStoreServiceStub(channel)
    return stub.GetPositions(feature_store_pb2.GetPositionsRequest(pipeline=pipeline), timeout=60)


def trainer(channel: grpc.Channel) -> Any:
    return trainer_pb2_grpc.TrainerServiceStub(channel).ListRuns(trainer_pb2.ListRunsRequest(), timeout=60)


def tuner(channel: grpc.Channel) -> Any:
    return tuner_pb2_grpc.TunerServiceStub(channel).ListStudies(tuner_pb2.ListStudiesRequest(), timeout=60)


def registry(channel: grpc.Channel) -> Any:
    stub = model_registry_pb2_grpc.ModelRegistryServiceStub(channel)
    return stub.GetPipeline(model_registry_pb2.GetPipelineRequest(pipeline="loans"), timeout=60)


def audit(channel: grpc.Channel) -> Any:
    stub = ethics_audit_pb2_grpc.EthicsAuditServiceStub(channel)
    return stub.GetAudit(ethics_audit_pb2.GetAuditRequest(version=DIGEST), timeout=60)


def inference(channel: grpc.Channel) -> Any:
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    return stub.GetServing(inference_pb2.GetServingRequest(), timeout=60)


READS: Mapping[str, Call] = {
    "ingest": ingest,
    "feature_store": feature_store,
    "trainer": trainer,
    "tuner": tuner,
    "model_registry": registry,
    "ethics_audit": audit,
    "inference": inference,
}


def apply_pipeline(channel: grpc.Channel) -> Any:
    request = model_registry_pb2.ApplyPipelineRequest(text=lending.PIPELINE_TEXT + "# again\n", file="p.yaml")
    return model_registry_pb2_grpc.ModelRegistryServiceStub(channel).ApplyPipeline(request, timeout=60)


def cancel_run(channel: grpc.Channel) -> Any:
    request = trainer_pb2.CancelRunRequest(run_id="unknown")
    return trainer_pb2_grpc.TrainerServiceStub(channel).CancelRun(request, timeout=60)


def cancel_study(channel: grpc.Channel) -> Any:
    request = tuner_pb2.CancelStudyRequest(study_id="unknown")
    return tuner_pb2_grpc.TunerServiceStub(channel).CancelStudy(request, timeout=60)


def decide_review(channel: grpc.Channel) -> Any:
    request = ethics_audit_pb2.DecideReviewRequest(version=DIGEST, decided_by="Ada", why="pilot")
    return ethics_audit_pb2_grpc.EthicsAuditServiceStub(channel).DecideReview(request, timeout=60)


class Services:
    """Each service as a process with a home of its own; what they know came from one Kafka."""

    def __init__(self, kafka: Kafka, folder: Path, urls: Mapping[str, str]) -> None:
        self.folder, self.urls = folder, urls
        self.settings = kafka.settings(f"held-{uuid.uuid4().hex[:8]}.")
        self.channels: dict[str, grpc.Channel] = {}
        self.keys = Keys(folder / "keys")
        self.keys.ensure(sample.NOW)
        self._artifacts = f"file://{folder}/artifacts"
        self._producer = Producer(self.settings.client())
        ensure_topics(self.settings, [*SHARED, *pipeline_topics(sample.pipeline())])

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        ports = dict(zip(READS, free_ports(len(READS)), strict=True))
        peers = json.dumps({name: f"127.0.0.1:{port}" for name, port in ports.items()})
        processes = {name: self._start(name, port, peers) for name, port in ports.items()}
        self.channels = {name: grpc.insecure_channel(f"127.0.0.1:{port}") for name, port in ports.items()}
        try:
            for name, process in processes.items():
                assert process.poll() is None
                until(partial(self.answers, name, READS[name]), within=180, what=f"{name} answers")
            yield
        except BaseException:
            for name in READS:
                print(name, (self.folder / f"{name}.log").read_text()[-2000:])
            raise
        finally:
            for channel in self.channels.values():
                channel.close()
            for process in processes.values():
                process.terminate()
            for process in processes.values():
                process.wait(60)

    def _start(self, name: str, port: int, peers: str) -> subprocess.Popen[bytes]:
        home = self.home(name)
        home.mkdir(exist_ok=True)
        if name != "inference":
            for keys in ("keys", "keys-training"):
                shutil.copytree(self.folder / keys, home / keys)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PENSTOCK_")}
        environment |= {
            "PENSTOCK_HOME": str(home),
            "PENSTOCK_ARTIFACTS": self._artifacts,
            "PENSTOCK_KAFKA__BOOTSTRAP_SERVERS": self.settings.bootstrap_servers,
            "PENSTOCK_KAFKA__TOPIC_PREFIX": self.settings.topic_prefix,
            "PENSTOCK_PEERS": peers,
            f"PENSTOCK_{name.upper()}__PORT": str(port),
        }
        if name in self.urls:
            environment |= database_settings(name, self.urls[name], home)
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"penstock_{name}"], env=environment, stdout=log, stderr=log
            )

    def home(self, name: str) -> Path:
        return self.folder / name

    def answers(self, name: str, call: Call) -> bool:
        try:
            return call(self.channels[name]) is not None
        except grpc.RpcError:
            return False

    def publish(self, *events: Event) -> None:
        for event in events:
            headers = [("ce_id", uuid.uuid4().hex.encode()), ("ce_type", event.ce_type().encode())]
            topic = self.settings.topic(event.topic)
            self._producer.produce(topic, encode(event), event.key.encode(), headers=headers)
        assert self._producer.flush(30) == 0

    def have_a_past(self) -> None:
        """A pipeline, an audited version, and one that inference served and cannot verify yet: its
        trust store is away.
        """
        result = Artifacts(self._artifacts).put_bytes("audits/result.json", b"{}")
        self.publish(
            sample.applied(self.keys, number=7),
            sample.registered(self.keys, sample.version(DIGEST, self.keys)),
            AuditCompleted(
                audit_id="A1",
                pipeline="loans",
                digest=DIGEST,
                verdict="pass",
                gates=(sample.AUROC_PASSED, sample.gate()),
                evidence=sample.verdict(self.keys, DIGEST, result_digest=result.digest),
                report=sample.NOWHERE,
                result=result,
                scores=sample.NOWHERE,
                completed_at=sample.NOW,
            ),
        )
        store = Store.open(self.urls["inference"], migrations="penstock_inference.migrations")
        version = sample.version(DIGEST, self.keys)
        promotion = sample.promotion(self.keys, version, sample.verdict(self.keys, DIGEST))
        with store.transaction() as effect:
            admit(effect, promotion, Layout(DIGEST, 1, ("income",), ("purpose",), frozenset()), sample.NOW)
            serve(effect, promotion, sample.NOW)
        store.close()


@contextlib.contextmanager
def held(url: str) -> Iterator[None]:
    """The write lock of a database, as another process's writer takes it."""
    database = Database(url)
    with database.engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        yield
    database.close()


class Watch:
    """Asks a service for its health and for what it knows, five times a second each."""

    def __init__(self, channel: grpc.Channel, read: Call) -> None:
        self._channel = channel
        self._took: list[float] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(call,)) for call in (health, read)]
        for thread in self._threads:
            thread.start()

    def _run(self, call: Call) -> None:
        while not self._stop.wait(0.2):
            began = time.perf_counter()
            with contextlib.suppress(grpc.RpcError):  # how long is asked, whatever the answer
                call(self._channel)
            self._took.append(time.perf_counter() - began)

    def end(self) -> tuple[float, float]:
        """Returns p99 and the longest, in seconds."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return sorted(self._took)[int(len(self._took) * 0.99)], max(self._took)


def health(channel: grpc.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)


@pytest.fixture
def urls(databases: Databases, tmp_path: Path) -> Iterator[dict[str, str]]:
    with ExitStack() as stack:

        def url(opened: AbstractContextManager[str]) -> str:
            return stack.enter_context(opened)

        yield {name: url(databases()) for name in READS if name != WITHOUT_DATABASE}


def test_a_held_database_delays_who_needs_it_and_nobody_else(
    kafka: Kafka, urls: dict[str, str], tmp_path: Path
) -> None:
    services = Services(kafka, tmp_path, urls)
    services.have_a_past()
    with services.running(), ThreadPoolExecutor(4) as callers:
        with ExitStack() as locks:
            for url in urls.values():
                locks.enter_context(held(url))
            began = time.monotonic()
            writes = [
                callers.submit(call, services.channels[name])
                for name, call in (
                    ("model_registry", apply_pipeline),
                    ("trainer", cancel_run),
                    ("tuner", cancel_study),
                    ("ethics_audit", decide_review),
                )
            ]
            services.publish(
                sample.applied(services.keys, lending.PIPELINE_TEXT.replace("loans", "rents"), 7)
            )  # kept by whoever reads pipelines.v1
            # Another trust store: what inference served is withdrawn.
            Keys(services.home("inference") / "keys").ensure(sample.NOW)
            watches = {name: Watch(channel, READS[name]) for name, channel in services.channels.items()}
            until(lambda: time.monotonic() - began > HOLD_S, within=2 * HOLD_S, what="the lock was held")
            found = {name: watch.end() for name, watch in watches.items()}
            assert found[WITHOUT_DATABASE][1] < HOLD_S / 4, "it does not wait for a database of others"
            p99, longest = map(max, (P99_S, LONGEST_S), (BUSY * took for took in found[WITHOUT_DATABASE]))
            assert {name: took for name, took in found.items() if took[0] > p99 or took[1] > longest} == {}
            assert not any(write.done() for write in writes)
        assert writes[0].result(60).number == 8
        refused = [write.exception(60) for write in writes[1:]]
        assert [error.code() for error in refused] == [  # type: ignore[union-attr]
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.FAILED_PRECONDITION,
        ]
        withdrawn = lambda: inference(services.channels["inference"]).pipelines[0].refused_reason  # noqa: E731
        until(withdrawn, what="inference has written what it found")
        kept = lambda: services.answers("feature_store", partial(feature_store, pipeline="rents"))  # noqa: E731
        until(kept, what="the feature store has kept the other pipeline")
