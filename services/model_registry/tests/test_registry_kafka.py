"""The whole service beside a real broker: events in, events out, killed where it hurts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from penstock.contracts.events import (
    Event,
    ModelVersionPromoted,
    ModelVersionRegistered,
    PipelineApplied,
    decode,
    encode,
)
from penstock.contracts.topics import SHARED, dead_letter_topic, source_topic
from penstock.model_registry.v1 import model_registry_pb2 as pb
from penstock.model_registry.v1.model_registry_pb2_grpc import ModelRegistryServiceStub
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.settings import KafkaSettings
from penstock.status.v1 import status_pb2, status_pb2_grpc
from penstock.testing import lending
from penstock.testing import packages as sample
from penstock.testing.broker import Kafka, free_ports
from penstock.testing.packages import gate
from penstock.testing.postgres import database_settings
from penstock.testing.wait import until

if TYPE_CHECKING:
    from conftest import World

pytestmark = pytest.mark.kafka
PROCESS = Path(__file__).parent / "registry_process.py"
WITHIN_S = 60.0
TEXT_INCOME = lending.PIPELINE_TEXT.replace("type: number", "type: text")


class Running:
    """The service as a process, with the broker's topics in view."""

    def __init__(self, world: World, kafka: KafkaSettings) -> None:
        self.world = world
        self.kafka = kafka
        self.port = free_ports(1)[0]
        self.process: subprocess.Popen[bytes] | None = None
        self.database = world.database
        ensure_topics(kafka, SHARED)
        self._producer = Producer(kafka.client())

    def start(self, moment: str = "never", event: str = "-") -> None:
        environment = os.environ | {
            "PENSTOCK_HOME": str(self.world.home),
            "PENSTOCK_KAFKA__BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "PENSTOCK_KAFKA__TOPIC_PREFIX": self.kafka.topic_prefix,
            "PENSTOCK_MODEL_REGISTRY__PORT": str(self.port),
        }
        environment |= database_settings("model_registry", self.database, self.world.home)
        with (self.world.home / "registry.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(PROCESS), moment, event], env=environment, stdout=log, stderr=log
            )

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(30)

    def ends(self) -> int:
        assert self.process is not None
        return self.process.wait(WITHIN_S)

    def apply(self, text: str) -> pb.ApplyPipelineResponse:
        self._has_read_its_past()
        request = pb.ApplyPipelineRequest(text=text, file="loans.yaml", applied_by="Ada")
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            return ModelRegistryServiceStub(channel).ApplyPipeline(
                request, wait_for_ready=True, timeout=WITHIN_S
            )

    def _has_read_its_past(self) -> None:
        """Waits: a first start has an empty database, and answers nothing before."""
        until(lambda: "start" not in self.waits_for(), within=WITHIN_S, what="it has read its past")

    def version(self, digest: str) -> pb.Version:
        self._has_read_its_past()
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            request = pb.GetVersionRequest(version=digest[:15])
            return ModelRegistryServiceStub(channel).GetVersion(
                request, wait_for_ready=True, timeout=WITHIN_S
            )

    def facts(self) -> str:
        return "; ".join(self._status().facts)

    def waits_for(self) -> set[str]:
        return {wait.thing for wait in self._status().waiting}

    def _status(self) -> status_pb2.ServiceStatus:
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            request = status_pb2.GetStatusRequest()
            status = status_pb2_grpc.StatusServiceStub(channel).GetStatus(
                request, wait_for_ready=True, timeout=WITHIN_S
            )
        return status.services[0]

    def publish(self, event: Event, event_id: str) -> None:
        headers = [("ce_id", event_id.encode()), ("ce_type", event.ce_type().encode())]
        self._producer.produce(
            self.kafka.topic(event.topic), encode(event), key=event.key.encode(), headers=headers
        )
        assert self._producer.flush(30) == 0

    def publish_raw(self, topic: str, value: bytes) -> None:
        self._producer.produce(self.kafka.topic(topic), value, key=b"k")
        assert self._producer.flush(30) == 0

    def messages(self, topic: str) -> list[tuple[str, str, bytes]]:
        """All that lies there now: (ce_id, ce_type, value)."""
        consumer = Consumer(self.kafka.client(**{"group.id": uuid.uuid4().hex, "enable.auto.commit": False}))
        try:
            place = TopicPartition(self.kafka.topic(topic), 0, 0)
            _, high = consumer.get_watermark_offsets(place, timeout=10)
            consumer.assign([place])
            found: list[tuple[str, str, bytes]] = []
            position = 0
            while position < high:
                message = consumer.poll(10)
                assert message is not None, f"{topic} stands at {position} of {high}"
                position = message.offset() + 1
                assert message.error() is None, message.error()
                headers = {name: value.decode() for name, value in message.headers() or []}
                found.append((headers.get("ce_id", ""), headers.get("ce_type", ""), message.value()))
            return found
        finally:
            consumer.close()

    def events(self, topic: str, kind: type[Event], at_least: int = 1) -> list[tuple[str, Event]]:
        """Of one kind, with their ids, once there are so many."""

        def there() -> list[tuple[str, Event]] | None:
            read = [(ce_id, decode(ce_type, value)) for ce_id, ce_type, value in self.messages(topic)]
            found = [(ce_id, event) for ce_id, event in read if isinstance(event, kind)]
            return found if len(found) >= at_least else None

        found = until(there, within=WITHIN_S, what=f"{at_least} {kind.__name__} on {topic}")
        assert found is not None
        return found


@pytest.fixture
def running(world: World, kafka: Kafka) -> Iterator[Running]:
    running = Running(world, kafka.settings(f"registry-{uuid.uuid4().hex[:8]}-"))
    yield running
    if running.process is not None and running.process.poll() is None:
        running.stop(signal.SIGKILL)


def test_the_way_of_a_version(running: Running) -> None:
    """Applied, registered, promoted; a broken message is a dead letter and holds nothing up;
    SIGTERM ends it in order.
    """
    running.start()
    assert running.apply(TEXT_INCOME) == pb.ApplyPipelineResponse(pipeline="loans", number=2, changed=True)
    [(_, applied)] = running.events("pipelines.v1", PipelineApplied)
    assert isinstance(applied, PipelineApplied)
    assert (applied.pipeline, applied.number, applied.applied_by) == ("loans", 2, "Ada")

    running.publish_raw(source_topic("events", "loans", "applications"), b"{}")
    refused = running.apply(lending.PIPELINE_TEXT)
    assert not refused.changed, (
        "a source that holds data keeps its fields; before that the same change was taken"
    )
    [problem] = refused.problems
    assert (problem.key, problem.line) == ("sources.applications.fields.income.type", 11)
    assert "was text" in problem.message

    running.publish_raw("training-runs.v1", b"\xff no event")
    run = running.world.run()
    for event_id in ("run-1", "run-1", "run-2"):
        running.publish(run, event_id)
    [(_, registered)] = running.events("model-versions.v1", ModelVersionRegistered)
    assert isinstance(registered, ModelVersionRegistered)
    assert running.world.packages.verify(registered.version) == run.digest
    letters = dead_letter_topic("training-runs.v1", "penstock.model_registry")
    found = until(
        lambda: running.messages(letters),
        within=WITHIN_S,
        what="a dead letter",
        despite=KafkaException,  # its topic is made with it
    )
    assert len(found) == 1

    running.publish(running.world.audit(run.digest), "audit-1")
    [(_, promoted)] = running.events("model-versions.v1", ModelVersionPromoted)
    assert isinstance(promoted, ModelVersionPromoted)
    assert promoted.generation == 1
    assert running.version(run.digest).state == pb.Version.STATE_PROMOTED
    assert running.stop() == 0
    assert len(running.events("model-versions.v1", ModelVersionRegistered)) == 1

    running.database = running.world.new_database()
    running.start()
    again = running.version(run.digest)
    assert (again.state, again.generation) == (pb.Version.STATE_PROMOTED, 1), (
        "with its database lost it learns what it announced"
    )
    changed = running.apply(TEXT_INCOME + "# more\n")
    assert changed.number == 3, list(changed.problems)


def test_killed_between_effect_and_publish_nothing_is_lost_or_doubled(running: Running) -> None:
    run = running.world.run()
    running.publish(run, "run-1")
    running.start("before", "ModelVersionRegistered")
    assert running.ends() == -signal.SIGKILL
    assert running.world.state(run.digest)[0] == "registered", "the effect was durable"
    assert running.messages("model-versions.v1") == [], "and nobody had heard of it"

    running.start("after", "ModelVersionPromoted")
    running.events("model-versions.v1", ModelVersionRegistered)
    running.publish(running.world.audit(run.digest), "audit-1")
    assert running.ends() == -signal.SIGKILL

    running.start()
    running.publish(run, "run-1")
    running.publish(running.world.audit(run.digest), "audit-1")
    other = running.world.run(card="# the next\n", run_id="R2")
    running.publish(other, "run-2")
    registered = running.events("model-versions.v1", ModelVersionRegistered, at_least=2)
    promoted = running.events("model-versions.v1", ModelVersionPromoted)
    # Kafka may hold an event twice; it is the same one, by its id, and every inbox knows it.
    assert len({ce_id for ce_id, _ in registered}) == len({event.key for _, event in registered}) == 2
    assert len({ce_id for ce_id, _ in promoted}) == 1
    assert {event.generation for _, event in promoted if isinstance(event, ModelVersionPromoted)} == {1}


def test_a_person_waives_and_a_refused_package_shows_in_the_status(running: Running) -> None:
    """All of it waits in Kafka when the service comes up."""
    run, failed = running.world.run(), gate("fail")
    running.publish(run, "run-1")
    running.publish(running.world.audit(run.digest, sample.AUROC_PASSED, failed), "audit-1")
    running.publish(
        running.world.review(run.digest, sample.waiver(running.world.keys, run.digest, failed)), "review-1"
    )
    running.start()
    [(_, promoted)] = running.events("model-versions.v1", ModelVersionPromoted)
    assert isinstance(promoted, ModelVersionPromoted)
    assert (promoted.promoted_by, len(promoted.evidence)) == ("Ada", 2)

    broken = running.world.run(card="# broken\n", run_id="R2")
    running.world.artifacts.delete(f"packages/{broken.digest[7:]}.tar")
    running.publish(broken, "run-2")
    until(
        lambda: "the artifact is gone" in running.facts(),
        within=WITHIN_S,
        what="the status says that the package was refused",
    )
    until(lambda: "2 versions, 1 promoted, 1 refused" in running.facts(), what="it counts the refused one")
    assert running.version(broken.digest).state == pb.Version.STATE_REFUSED
