"""Publishing events and reading rejects: straight to and from Kafka, as any program may do."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from pydantic import TypeAdapter, ValidationError

from penstock.client.connection import Connection
from penstock.client.declared import Row
from penstock.client.pipelines import Pipelines
from penstock.client.places import Places
from penstock.client.settings import ClientSettings
from penstock.contracts.dataplane import Reject
from penstock.contracts.errors import Invalid, NotFound, Refused, Unavailable
from penstock.contracts.formats import entity_key
from penstock.contracts.pipeline import Source
from penstock.contracts.topics import source_topic
from penstock.ingest.v1 import ingest_pb2, ingest_pb2_grpc

TIMEOUT_S = 30.0
GATHER_S = 0.05  # that a read waits for a thousand messages: most topics hold fewer
KAFKA_LOG = logging.getLogger("penstock.client.librdkafka")
"""Heard by who configures logging: librdkafka would write to stderr, amid a person's output, what it
tries again by itself.
"""
KAFKA_LOG.addHandler(logging.NullHandler())
_REJECT = TypeAdapter(Reject)


@dataclass(frozen=True)
class Offset:
    """Everything of the partition below `offset`."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True)
class Published:
    """Events of one call of `publish` that Kafka acknowledged. A training set that waits for
    `offsets` holds them.
    """

    events: int
    bytes: int
    seconds: float
    offsets: tuple[Offset, ...]
    places: Places = field(default_factory=Places)
    """Rows by their events' places, counted from 1."""


@dataclass
class _Tally:
    acknowledged: int = 0
    places: Places = field(default_factory=Places)
    error: KafkaError | None = None

    def __call__(self, row: int, error: KafkaError | None, message: Message) -> None:
        partition, offset = message.partition(), message.offset()
        if error is None and partition is not None and offset is not None:
            self.acknowledged += 1
            self.places.add(partition, offset, row)
        self.error = self.error or error


class Events:
    """`penstock.events`: events out, rejects and counts back."""

    def __init__(self, connection: Connection, settings: ClientSettings, pipelines: Pipelines) -> None:
        self._connection = connection
        self._kafka = settings.kafka
        self._operator = settings.operator
        self._pipelines = pipelines
        self._ingest = ingest_pb2_grpc.IngestServiceStub(connection.channel)

    def publish(
        self,
        pipeline: str,
        source: str,
        rows: Iterable[Row | bytes],
        *,
        progress: Callable[[int], None] | None = None,
    ) -> Published:
        """Publishes rows (mappings, or an event's bytes as they are), keyed by the entity; returns
        when Kafka has them all on disk.

        Raises NotFound for a pipeline or source that does not exist, Invalid for a row without a form
        in the source's format (a mapping is written as JSON), Unavailable when Kafka does
        not take an event within 30 s; what was acknowledged before stays published: publish again,
        repeats are dropped by their id. `progress` is told the count of events so far.
        """
        spec = self._pipelines.spec(pipeline)
        if source not in spec.sources:
            raise NotFound(
                f"pipeline `{pipeline}` has no source `{source}`",
                remedy=f"Its sources: {', '.join(spec.sources)}",
            )
        topic = self._kafka.topic(source_topic("events", pipeline, source))
        producer, tally = self._producer(), _Tally()
        started = time.monotonic()
        count = size = 0
        for count, row in enumerate(rows, 1):
            value, key = _message(row, spec.sources[source], spec.key)
            self._produce(producer, topic, value, key, tally, count)
            size += len(value)
            if progress and count % 500 == 0:
                progress(count)
        while len(producer) and not tally.error:
            producer.flush(0.2)
        self._check(tally, count)
        if progress:
            progress(count)
        offsets = tuple(Offset(topic, *end) for end in tally.places.ends())
        return Published(count, size, time.monotonic() - started, offsets, tally.places)

    def _producer(self) -> Producer:
        return Producer(
            self._kafka.client(
                enable_idempotence=True,
                partitioner="murmur2_random",
                linger_ms=20,
                compression_type="lz4",
                message_timeout_ms=round(TIMEOUT_S * 1000),
                queue_buffering_max_messages=100_000,
            ),
            logger=KAFKA_LOG,
        )

    def _produce(
        self, producer: Producer, topic: str, value: bytes, key: bytes | None, tally: _Tally, row: int
    ) -> None:
        producer.poll(0)
        while True:
            try:
                producer.produce(topic, value, key, on_delivery=partial(tally, row))
                return
            except BufferError:
                producer.poll(0.1)
                self._check(tally, tally.acknowledged)

    def _check(self, tally: _Tally, expected: int) -> None:
        if tally.error is not None or tally.acknowledged < expected:
            raise Unavailable(
                f"Kafka at {self._kafka.bootstrap_servers} took {tally.acknowledged} of the events, then"
                f" failed: {tally.error}",
                remedy="Publish the same file again when it is back: repeats are dropped by their id",
            )

    def counts(self, pipeline: str, source: str) -> ingest_pb2.GetCountsResponse:
        """Counts records, duplicates and rejects of the source, exact as of ingest's last transaction."""
        return self._connection.call(
            self._ingest.GetCounts, ingest_pb2.GetCountsRequest(pipeline=pipeline, source=source)
        )

    def profile(self, pipeline: str, source: str) -> ingest_pb2.GetProfileResponse:
        """Describes the accepted values, field by field."""
        return self._connection.call(
            self._ingest.GetProfile, ingest_pb2.GetProfileRequest(pipeline=pipeline, source=source)
        )

    def rejects(self, pipeline: str, source: str | None = None) -> Iterator[tuple[str, Reject]]:
        """Rejects that Kafka still holds, as (source, reject). What is none is left out: it hides no
        other.
        """
        for name in [source] if source else self._pipelines.spec(pipeline).sources:
            for message in self.read(source_topic("rejects", pipeline, name)):
                with suppress(ValidationError):
                    yield name, _REJECT.validate_json(message.value() or b"")

    def end_offsets(self, pipeline: str) -> tuple[Offset, ...]:
        """The ends of the pipeline's events topics now: what was published before is below them."""
        topics = [
            self._kafka.topic(source_topic("events", pipeline, name))
            for name in self._pipelines.spec(pipeline).sources
        ]
        with self._consumer() as consumer:
            return tuple(
                Offset(topic, partition, end)
                for topic in topics
                for partition, (_, end) in _watermarks(consumer, topic).items()
            )

    def topics(self, ending: str) -> list[str]:
        """Topics (without prefix) whose names end so."""
        prefix = self._kafka.topic_prefix
        with self._consumer() as consumer:
            found = consumer.list_topics(timeout=TIMEOUT_S).topics
        return sorted(
            name.removeprefix(prefix) for name in found if name.startswith(prefix) and name.endswith(ending)
        )

    def read(self, topic: str, begin: Mapping[int, int] | None = None) -> Iterator[Message]:
        """The committed messages of a topic (without prefix) from its beginning to its end as of now;
        of a partition that `begin` names, from that offset on. Raises NotFound, Unavailable, and
        Refused where Kafka does not let this user read it.
        """
        name, begin = self._kafka.topic(topic), begin or {}
        with self._consumer() as consumer:
            found = _watermarks(consumer, name)
            ends = {number: end for number, (first, end) in found.items() if end > begin.get(number, first)}
            consumer.assign([TopicPartition(name, number, begin.get(number, 0)) for number in ends])
            while ends:
                for message in consumer.consume(1000, timeout=GATHER_S):
                    if problem := message.error():
                        raise KafkaException(problem)
                    yield message
                for position in consumer.position([TopicPartition(name, number) for number in ends]):
                    if position.offset >= ends[position.partition]:
                        del ends[position.partition]

    @contextmanager
    def _consumer(self) -> Iterator[Consumer]:
        """Consumer of no group. A KafkaException of the block is raised as Unavailable,
        or as Refused where this user may not read.
        """
        consumer = Consumer(
            self._operator.client(
                group_id=f"penstock.client.{uuid.uuid4().hex}",
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                isolation_level="read_committed",
            ),
            logger=KAFKA_LOG,
        )
        try:
            yield consumer
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise Refused(
                    f"Kafka does not let this user read it: {error.args[0].str()}",
                    remedy="Name a user who may: PENSTOCK_KAFKA__SASL_USERNAME and"
                    " PENSTOCK_KAFKA__SASL_PASSWORD_FILE",
                ) from error
            raise Unavailable(
                f"Kafka at {self._operator.bootstrap_servers} does not answer: {error}",
                remedy="See `penstock status`",
            ) from error
        finally:
            consumer.close()


def _watermarks(consumer: Consumer, topic: str) -> dict[int, tuple[int, int]]:
    """First and next offset of each partition of a topic. Raises NotFound where there is none."""
    found = consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic]
    if found.error is not None:
        raise NotFound(
            f"Kafka has no topic `{topic}`", remedy="Apply the pipeline first: penstock apply FILE"
        )
    return {
        number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=TIMEOUT_S)
        for number in sorted(found.partitions)
    }


def _message(row: Row | bytes, source: Source, key: str) -> tuple[bytes, bytes | None]:
    if isinstance(row, bytes):
        return row, entity_key(row, source, key)
    if source.format.type != "json":
        raise Invalid(
            f"rows are written as JSON, and the source reads {source.format.type}",
            where="format",
            remedy="Give each event as the bytes that the source reads",
        )
    entity = row.get(key)
    value = encoded(row, where=f"{key} {entity}")
    if isinstance(entity, (str, int)):
        return value, str(entity).encode("utf-8", "replace")
    return value, entity_key(value, source, key)


def encoded(row: Row, *, where: str) -> bytes:
    """The row as it is, for ingest to judge. Raises Invalid that names `where`."""
    try:
        return _encoded(row)
    except (TypeError, ValueError) as error:
        raise Invalid(
            f"a row has no JSON form: {error.__cause__ or error}",
            where=where,
            remedy="Give texts, numbers, booleans, times, and None for what is missing",
        ) from error


def _encoded(row: Row) -> bytes:
    """Writes also what JSON has no form for, as Python does."""
    try:
        value = orjson.dumps(row, default=_plain)
    except TypeError:  # an integer beyond 64 bits, a lone surrogate, or what has no form at all
        value = b""
    nulls = value.count(b":null")  # orjson writes it for a number that is not finite, too
    if value and (not nulls or nulls <= [*row.values()].count(None)):
        return value
    return orjson.dumps({name: _written(value) for name, value in row.items()}, default=_plain)


def _written(value: object) -> object:
    said = float(value) if isinstance(value, Decimal) else value
    return orjson.Fragment(json.dumps(said)) if isinstance(said, str | int | float) else value


def _plain(value: object) -> object:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"a value of type {type(value).__name__} has no JSON form")
