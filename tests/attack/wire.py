"""Kafka and the platform as anybody sees them who reaches both: what was sent, what became of it."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psutil
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

from penstock.client import Penstock
from penstock.contracts.errors import NotFound
from penstock.contracts.events import EVENTS, decode
from penstock.contracts.services import PLATFORM
from penstock.contracts.topics import DEAD_LETTERS, SHARED
from penstock.packages.dsse import pae
from penstock.packages.keys import Signer
from penstock.runtime.settings import KafkaSettings
from penstock.testing.mutations import Headers
from penstock.testing.stack import StackUnderTest
from penstock.testing.wait import until

MORE_MEMORY = 1.05  # that a second half may add
Place = tuple[str, int, int]  # topic, partition, offset


@dataclass
class Sent:
    """`made` says how, for whoever looks at a failure; `fails`: every reader must put it aside."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: Headers = field(default_factory=list)
    made: str = ""
    fails: bool = False
    place: Place = ("", -1, -1)

    @property
    def event_type(self) -> str | None:
        """As a reader finds it; of several the last one counts."""
        found = [said or b"" for name, said in self.headers if name == "ce_type"]
        return found[-1].decode(errors="backslashreplace") if found else None


class Wire:
    """A producer, and what it sent."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self.sent: list[Sent] = []
        self._kafka = kafka
        self._producer = Producer(kafka.client(linger_ms=20, queue_buffering_max_messages=1_000_000))

    def send(self, one: Sent) -> None:
        where, said = self._kafka.topic(one.topic), partial(_placed, one)
        with suppress(KafkaException):  # too large for Kafka
            self._producer.produce(where, one.value, one.key, headers=one.headers or None, on_delivery=said)
            self.sent.append(one)
        self._producer.poll(0)

    def flush(self) -> None:
        """Kafka has it all."""
        assert self._producer.flush(60) == 0
        assert all(one.place[2] >= 0 for one in self.sent)

    def until_read(self, group: str, topics: list[str], within: float) -> None:
        """Waits until the group has settled all that these topics hold now; of a topic that it reads
        without a position, nothing.
        """
        consumer = Consumer(self._kafka.client(group_id=self._kafka.topic(group)))
        ends = {
            TopicPartition(self._kafka.topic(topic), number): 0
            for topic in topics
            for number in consumer.list_topics(self._kafka.topic(topic), timeout=30)
            .topics[self._kafka.topic(topic)]
            .partitions
        }
        for partition in ends:
            ends[partition] = consumer.get_watermark_offsets(partition, timeout=30)[1]

        def behind() -> int:
            settled = consumer.committed(list(ends), timeout=30)
            return sum(max(0, ends[one] - one.offset) for one in settled if one.offset >= 0)

        try:
            until(behind, accept=lambda left: left == 0, within=within, what=f"{group} has settled all")
        finally:
            consumer.close()


def _placed(one: Sent, error: object, message: Message) -> None:
    assert error is None, (error, one)
    one.place = one.topic, message.partition() or 0, message.offset() or 0


def readers() -> dict[str, list[str]]:
    """Groups of each shared topic that a service reads."""
    return {
        topic.name: [f"penstock.{one}" for one in topic.consumers if one in PLATFORM]
        for topic in SHARED
    }  # fmt: skip


class Letters:
    """Dead letters so far: the groups that put each message aside."""

    def __init__(self, client: Penstock, kafka: KafkaSettings) -> None:
        self._client = client
        self._found: defaultdict[Place, set[str]] = defaultdict(set)
        self._next: dict[str, int] = {}
        self._named = kafka.topic
        self._consumer = Consumer(kafka.client(group_id="nobody", enable_auto_commit=False))

    def look(self) -> dict[Place, set[str]]:
        """Reads those that came since the last look."""
        for name in map(self._named, self._client.events.topics(DEAD_LETTERS)):
            start = self._next.get(name, 0)
            end = self._consumer.get_watermark_offsets(TopicPartition(name, 0), timeout=30)[1]
            self._consumer.assign([TopicPartition(name, 0, start)])
            while start < end:
                for letter in self._consumer.consume(min(1000, end - start), timeout=1.0):
                    self._take(dict(letter.headers() or []))
                    start = (letter.offset() or 0) + 1
            self._next[name] = start
        return self._found

    def _take(self, said: Mapping[str, bytes | None]) -> None:
        where, offset = (int(said[f"dlq-{name}"] or b"") for name in ("partition", "offset"))
        topic, group = ((said[f"dlq-{name}"] or b"").decode() for name in ("topic", "group"))
        self._found[topic, where, offset].add(group)

    def close(self) -> None:
        self._consumer.close()


# -- what the platform says ------------------------------------------------------------------------


def state(client: Penstock) -> dict[str, Any]:
    """Answers of the services about what there is. A refusal that inference tells is none of
    it: that is how a forged promotion is seen.
    """
    pipelines = client.pipelines.list()
    versions = {one.name: client.models.list(one.name) for one in pipelines}
    digests = [version.digest for found in versions.values() for version in found]
    return {
        "pipelines": pipelines,
        "versions": versions,
        "audits": {digest: _audit(client, digest) for digest in digests},
        "reviews": client.audits.reviews(open_only=False),
        "serving": {
            one.pipeline: (one.digest, one.generation)
            for one in client.predictions.serving().pipelines
            if one.digest
        },
        "runs": {one.run_id: one for pipeline in pipelines for one in client.runs.list(pipeline.name)},
    }


def _audit(client: Penstock, digest: str) -> Any:
    try:
        return client.audits.get(digest)
    except NotFound:
        return None


def pids(stack: StackUnderTest) -> dict[str, int]:
    return {name: stack.pid(name) for name in PLATFORM}


def memory(stack: StackUnderTest) -> dict[str, int]:
    """Bytes of each service that are its alone, and its part of what it shares."""
    return {name: psutil.Process(stack.pid(name)).memory_full_info().pss for name in PLATFORM}


def until_no_more(stack: StackUnderTest, first: dict[str, int]) -> dict[str, int]:
    """Waits until each service holds little more than it did `first`: what was freed may be given back
    some time later.
    """
    return until(
        lambda: memory(stack),
        accept=lambda now: all(now[name] <= MORE_MEMORY * held for name, held in first.items()),
        what=f"no service holds over {MORE_MEMORY} times of {first}",
    )


# -- signed statements -----------------------------------------------------------------------------


def envelopes(node: Any) -> Iterator[dict[str, Any]]:
    """Each DSSE envelope within an event's JSON."""
    if isinstance(node, dict) and node.keys() >= {"payload", "payload_type", "signatures"}:
        yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from envelopes(inner)


def forge(event: Any, sign: Callable[[dict[str, Any]], Signer]) -> Any:
    """The event with each of its statements signed by whom `sign` names for its envelope."""
    event = json.loads(json.dumps(event))
    for envelope in envelopes(event):
        signer = sign(envelope)
        signature = signer.sign(pae(envelope["payload_type"], b64decode(envelope["payload"])))
        envelope["signatures"] = [{"keyid": signer.keyid, "sig": b64encode(signature).decode()}]
    return event


def restated(event: Any) -> Any:
    """The event with a later time in each of its statements, beneath the signatures of before."""
    event = json.loads(json.dumps(event))
    for envelope in envelopes(event):
        stated = json.loads(b64decode(envelope["payload"]))
        said = json.dumps(stated | {"at": "2199-01-01T00:00:00Z"}, sort_keys=True, separators=(",", ":"))
        envelope["payload"] = b64encode(said.encode()).decode()
    return event


def unsigned(event: Any) -> Any:
    event = json.loads(json.dumps(event))
    for envelope in envelopes(event):
        envelope["signatures"] = []
    return event


@dataclass(frozen=True)
class Genuine:
    """An event as it stands on its topic, or as the contracts' examples have it."""

    event_type: str
    topic: str
    key: bytes | None
    headers: dict[str, str]
    event: Any


def told(client: Penstock) -> list[Genuine]:
    """Every control event that the topics hold, but for what other tests sent that is none."""
    found = []
    for topic in SHARED:
        for message in client.events.read(topic.name):
            with suppress(ValueError):
                headers = {name: (said or b"").decode() for name, said in message.headers() or []}
                if headers.get("ce_type") in EVENTS:
                    event = json.loads(message.value() or b"")
                    decode(headers["ce_type"], message.value() or b"")
                    found.append(Genuine(headers["ce_type"], topic.name, message.key(), headers, event))
    return found


def summary(sent: list[Sent], found: dict[Place, set[str]]) -> str:
    made = Counter(one.made for one in sent)
    aside = Counter(one.made for one in sent if one.place in found)
    return ", ".join(f"{how}: {aside[how]:,} of {count:,} put aside" for how, count in made.most_common())
