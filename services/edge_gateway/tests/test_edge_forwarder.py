"""What a site forwards stands in the topics once and in order, whenever the hub dies; what no topic
takes becomes a dead letter and stops nothing.
"""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import grpc
import orjson
import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from penstock.contracts.load import read
from penstock.contracts.topics import SHARED, Topic, pipeline_topics
from penstock.edge_gateway.v1.hub_pb2 import Forwarded, ForwardRequest, ForwardResponse, Gap, SpooledEvent
from penstock.edge_gateway.v1.hub_pb2_grpc import HubServiceStub
from penstock.runtime.kafka.admin import ensure_topics
from penstock.testing.broker import Kafka, free_ports
from penstock.testing.wait import until

pytestmark = pytest.mark.kafka

PROCESS = Path(__file__).with_name("support") / "forwarder_process.py"
EXAMPLE = Path(__file__).parents[3] / "examples" / "credit-risk" / "pipeline.yaml"
EVENTS, PREDICTIONS = "credit-risk.applications.events.v1", "credit-risk.predictions.v1"
LETTERS = "edge-positions.v1.penstock.edge_gateway.dlq"
BATCH = 50
PREDICTION = {
    "id": "6f1c",
    "pipeline": "credit-risk",
    "digest": "sha256:" + "a" * 64,
    "generation": 3,
    "time": "2026-01-02T03:04:05Z",
    "milliseconds": 1.5,
    "protocol": "grpc",
    "status": "OK",
    "traceparent": None,
    "rows": 1,
    "inputs": {"age": [41.0]},
    "probabilities": [[0.25, 0.75]],
    "values": None,
    "decisions": ["yes"],
    "undecoded": None,
}


class Hub:
    """A process that forwards, and a site's channel to it."""

    def __init__(self, folder: Path, kafka: Kafka, prefix: str) -> None:
        self.prefix = prefix
        self.kafka = kafka
        (self._port,) = free_ports(1)
        self._arguments = [str(folder), kafka.bootstrap_servers, prefix, str(self._port)]
        channel = grpc.insecure_channel(
            f"127.0.0.1:{self._port}", options=[("grpc.max_reconnect_backoff_ms", 200)]
        )
        self._stub = HubServiceStub(channel)
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, str(PROCESS), *self._arguments])

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def forward(
        self, records: Sequence[Forwarded], *, first: int = 1, lane: str = "events"
    ) -> ForwardResponse | None:
        """Its answer; None where it is to be asked again."""
        request = ForwardRequest(lane=lane, incarnation=1, epoch="e", first=first, records=records)
        try:
            return self._stub.Forward(request, timeout=20)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return None

    def read(self, topic: str) -> list[Message]:
        """What a reader of committed messages finds, partition by partition."""
        settings = self.kafka.settings().client(
            group_id=uuid.uuid4().hex, isolation_level="read_committed", enable_partition_eof=True
        )
        consumer, found = Consumer(settings), []
        name = f"{self.prefix}{topic}"
        left = set(consumer.list_topics(name, timeout=10).topics[name].partitions)
        consumer.assign([TopicPartition(name, number, 0) for number in left])
        while left:
            for message in consumer.consume(1000, 1):
                if message.error():
                    left.discard(message.partition())
                else:
                    found.append(message)
        consumer.close()
        return found


@dataclass(frozen=True)
class Narrow(Topic):
    """A topic that somebody has told to take small messages alone."""

    @property
    def config(self) -> dict[str, str]:
        return super().config | {"max.message.bytes": "2000"}


@pytest.fixture
def hub(request: pytest.FixtureRequest, tmp_path: Path, kafka: Kafka) -> Iterator[Hub]:
    """`narrow` as its parameter: the topic of events takes small messages alone."""
    prefix = f"t{uuid.uuid4().hex[:8]}."
    topics = [*pipeline_topics(read(EXAMPLE.read_text())), *SHARED]
    if hasattr(request, "param"):
        topics = [Narrow(**vars(topic)) if topic.name == EVENTS else topic for topic in topics]
    ensure_topics(kafka.settings(prefix), topics)
    made = Hub(tmp_path, kafka, prefix)
    yield made
    made.kill()


def event(number: int, source: str = "applications", **fields: str) -> Forwarded:
    said = orjson.dumps({"applicant_id": f"p{number % 7}", "application_id": number, **fields})
    return Forwarded(event=SpooledEvent(pipeline="credit-risk", source=source, event=said))


def answered(ask: Callable[[], ForwardResponse | None]) -> ForwardResponse:
    answer = until(ask, what="the hub answers")
    assert answer is not None
    return answer


def numbers(messages: Sequence[Message]) -> list[int]:
    return [orjson.loads(message.value() or b"")["application_id"] for message in messages]


def numbers_by_key(messages: Sequence[Message]) -> dict[bytes | None, list[int]]:
    by_key: dict[bytes | None, list[int]] = {}
    for message in messages:
        by_key.setdefault(message.key(), []).append(*numbers([message]))
    return by_key


def test_nothing_lost_doubled_or_out_of_order_by_kill_9(hub: Hub) -> None:
    rng = random.Random(7)
    spooled = [event(number) for number in range(3_000)]
    kills = sorted(rng.sample(range(200, 2_800), 3))
    reached = 0
    while reached < len(spooled):
        batch = partial(hub.forward, spooled[reached : reached + BATCH], first=reached + 1)
        if kills and reached >= kills[0]:
            kills.pop(0)
            with ThreadPoolExecutor(1) as beside:
                asked = beside.submit(batch)
                time.sleep(rng.uniform(0, 0.02))  # a moment of its work, seeded
                hub.kill()
                asked.result()  # whatever it says: the site has died, too
            hub.start()
        reached = answered(batch).reached
    found = hub.read(EVENTS)
    assert sorted(numbers(found)) == [*range(3_000)]
    by_key = numbers_by_key(found)
    assert all(of_one == sorted(of_one) for of_one in by_key.values())
    assert by_key.keys() == {f"p{number}".encode() for number in range(7)}


@pytest.mark.parametrize("hub", ["narrow"], indirect=True)
def test_a_record_that_kafka_refuses_is_a_dead_letter_and_nobody_stops_for_it(hub: Hub) -> None:
    odd = 30
    large = {"note": random.Random(7).randbytes(3_000).hex()}  # compressed, too
    spooled = [event(number, **(large if number == odd else {})) for number in range(70)]
    reached, rejected = 0, list[int]()
    dropped = [Forwarded(gap=Gap(records=3, reason=Gap.REASON_TOO_OLD))]
    with ThreadPoolExecutor(1) as beside:
        other = beside.submit(answered, lambda: hub.forward(dropped, lane="predictions"))
        while reached < len(spooled):
            answer = answered(partial(hub.forward, spooled[reached:], first=reached + 1))
            assert answer.reached > reached
            reached = answer.reached
            rejected += [one.sequence for one in answer.rejected]
        assert other.result().reached == 3
    assert rejected == [odd + 1]
    found = hub.read(EVENTS)
    assert sorted(numbers(found)) == [number for number in range(70) if number != odd]
    assert all(of_one == sorted(of_one) for of_one in numbers_by_key(found).values())
    (letter,) = hub.read(LETTERS)
    said = dict(letter.headers() or [])
    assert said["dlq-reason"].startswith(b"site branch-1, events 31: Kafka refuses it: ")
    refused = spooled[odd].event.event
    digest = hashlib.sha256(refused).hexdigest()
    assert said["dlq-left-out"] == f"{len(refused)} bytes, sha256:{digest}".encode()
    assert letter.value() == b""


def test_what_is_no_position_leaves_the_hub_at_work_and_the_position_as_it_was(hub: Hub) -> None:
    assert answered(lambda: hub.forward([event(1)])).reached == 1
    hub.kill()
    producer = Producer(hub.kafka.settings().client())
    for odd in (b"{", b"{}", b'{"site": "branch-1", "lane": "events", "sequence": "x"}', None):
        producer.produce(f"{hub.prefix}edge-positions.v1", odd, b"branch-1/events")
    assert producer.flush(10) == 0
    hub.start()
    assert answered(lambda: hub.forward([event(1), event(2)])).reached == 2
    assert sorted(numbers(hub.read(EVENTS))) == [1, 2]


def test_what_no_topic_takes_is_a_dead_letter_with_the_sites_name(hub: Hub) -> None:
    records = [
        event(1),
        event(2, source="gone"),
        Forwarded(event=SpooledEvent(pipeline="gone", source="applications", event=b"{}")),
        Forwarded(event=SpooledEvent(pipeline="credit-risk", source="applications", event=b"x" * 950_000)),
        Forwarded(gap=Gap(records=4, reason=Gap.REASON_TOO_OLD)),
        event(9),
    ]
    answer = answered(lambda: hub.forward(records))
    assert answer.reached == 9
    assert [one.sequence for one in answer.rejected] == [2, 3, 4]
    assert answered(lambda: hub.forward(records)).rejected == []  # a repeat writes nothing
    assert sorted(numbers(hub.read(EVENTS))) == [1, 9]
    letters = [dict(letter.headers() or []) for letter in hub.read(LETTERS)]
    assert [letter["dlq-reason"].decode().partition(":")[0] for letter in letters] == [
        f"site branch-1, events {sequence}" for sequence in (2, 3, 4)
    ]
    assert {letter["dlq-site"] for letter in letters} == {b"branch-1"}


def test_what_a_wrong_clock_wrote_arrives_as_it_was_written_at_the_hubs_time(hub: Hub) -> None:
    """Kafka refuses a message of more than an hour ahead, and the transaction with it."""
    now = datetime.now(UTC)
    wrong = [f"{now + timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}" for hours in (-72, -1, 1, 72)]
    events = [event(number, submitted_at=at) for number, at in enumerate(wrong)]
    records = [Forwarded(prediction=orjson.dumps(PREDICTION | {"time": at})) for at in wrong]
    assert not answered(lambda: hub.forward(events)).rejected
    assert not answered(lambda: hub.forward(records, lane="predictions")).rejected
    for topic, field in ((EVENTS, "submitted_at"), (PREDICTIONS, "time")):
        found = hub.read(topic)
        assert sorted(orjson.loads(one.value() or b"")[field] for one in found) == sorted(wrong)
        for one in found:
            assert abs(one.timestamp()[1] / 1000 - now.timestamp()) < 600


def test_a_prediction_names_the_site_that_forwarded_it(hub: Hub) -> None:
    said = PREDICTION | {"site": "another", "from_a_newer_release": True}
    records = [
        Forwarded(prediction=one)
        for one in (orjson.dumps(said), b"{", b"{}", orjson.dumps(said | {"rows": "x"}))
    ]
    answer = answered(lambda: hub.forward(records, lane="predictions"))
    assert [one.sequence for one in answer.rejected] == [2, 3, 4]
    (found,) = hub.read(PREDICTIONS)
    assert found.key() == b"6f1c"
    assert orjson.loads(found.value() or b"") == said | {"site": "branch-1"}
