"""Both streams against the real broker."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from confluent_kafka import Consumer, Producer
from structlog.testing import capture_logs

from penstock.contracts.errors import Unavailable
from penstock.contracts.topics import Topic
from penstock.runtime.kafka import clients
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.kafka.messages import Batch, Committed, Outcome, Partition, Produced, Send
from penstock.runtime.kafka.reading import Reader
from penstock.runtime.kafka.recovery import ClientFailed
from penstock.runtime.kafka.streams import PositionedStream, TransactionalStream
from penstock.runtime.kafka.transaction import MessageRefused, Transactions
from penstock.runtime.readiness import Readiness
from penstock.runtime.settings import KafkaSettings
from penstock.testing.broker import EmbeddedKafka, Kafka
from penstock.testing.group import leading
from penstock.testing.wait import until

pytestmark = pytest.mark.kafka


@pytest.fixture
def settings(kafka: Kafka) -> KafkaSettings:
    return kafka.settings(f"stream-{uuid.uuid4().hex[:8]}.")


def make(settings: KafkaSettings, *names: str, partitions: int = 2) -> None:
    ensure_topics(
        settings,
        [
            Topic(name, owner="test", consumers=(), key="", about="", messages=(), partitions=partitions)
            for name in names
        ],
    )


def publish(settings: KafkaSettings, topic: str, values: Sequence[bytes], partitions: int = 2) -> None:
    producer = Producer(settings.client(enable_idempotence=True))
    for number, value in enumerate(values):
        producer.produce(settings.topic(topic), value, partition=number % partitions)
    producer.flush(30)


def everything(settings: KafkaSettings, topic: str) -> dict[int, list[bytes]]:
    """All committed values, by partition."""
    consumer = Consumer(
        settings.client(
            group_id=uuid.uuid4().hex,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            enable_partition_eof=True,
        )
    )
    count = len(
        consumer.list_topics(settings.topic(topic), timeout=10).topics[settings.topic(topic)].partitions
    )
    consumer.subscribe([settings.topic(topic)])
    found: dict[int, list[bytes]] = {number: [] for number in range(count)}
    ended: set[int] = set()
    while len(ended) < count:
        for message in consumer.consume(5000, 0.2):
            if message.error():
                ended.add(message.partition())
            else:
                found[message.partition()].append(message.value())
    consumer.close()
    return found


@contextmanager
def running(stream: TransactionalStream | PositionedStream) -> Iterator[None]:
    stop, failures = threading.Event(), []

    def run() -> None:
        try:
            stream.run(stop)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()
        assert not failures, failures


class Copy:
    """Copies each message and keeps the number of messages so far as metadata."""

    def __init__(self, into: str) -> None:
        self._into = into
        self.counts: dict[int, int] = {}

    def assigned(self, partitions: Mapping[int, Committed]) -> None:
        self.counts = {partition: int(committed.metadata or 0) for partition, committed in partitions.items()}

    def process(self, batch: Batch, send: Send) -> Outcome:
        number = batch.partition.number
        count = self.counts[number] + len(batch.messages)
        send([Produced(self._into, number, message.key, message.value) for message in batch.messages])
        return Outcome(metadata=str(count), committed=lambda: self.counts.update({number: count}))


def test_a_topic_that_the_group_left_out_is_read_after_all(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.runtime.kafka.assignment.LOOK_EVERY_S", 0.5)
    make(settings, "in", "new", "out")
    publish(settings, "in", [b"known"] * 10)
    publish(settings, "new", [b"left out"] * 10)
    known, new = Copy("out"), Copy("out")
    stream = TransactionalStream(settings, group="copy", replica="0")
    stream.add("in", known)
    stream.add("new", new)
    with (
        leading(settings, "copy", ["in", "new"], leaves_out="new", strategy="range"),
        capture_logs() as logs,
        running(stream),
    ):
        until(lambda: sum(known.counts.values()) == 10, what="the first is read")
        until(lambda: sum(new.counts.values()) == 10, what="the one that was left out is read")
    ended = [entry["why"] for entry in logs if entry["event"] == "session_ended"]
    assert sum("nobody in the group has" in why for why in ended) == 1  # and not again and again
    assert sum(map(len, everything(settings, "out").values())) == 20


def test_a_batch_and_its_offsets_are_one_transaction(settings: KafkaSettings) -> None:
    make(settings, "in", "late", "out")
    values = [b"%05d" % number for number in range(5000)]
    publish(settings, "in", values)
    copy, late = Copy("out"), Copy("out")
    stream = TransactionalStream(settings, group="copy", replica="0", batch=700)
    stream.add("in", copy)
    with running(stream):
        until(lambda: sum(copy.counts.values()) == 5000, what="all copied")
        publish(settings, "late", [b"later"] * 10)
        stream.add("late", late)
        until(lambda: sum(late.counts.values()) == 10, what="the new topic is read")
    assert everything(settings, "out") == {number: [*values[number::2], *[b"later"] * 5] for number in (0, 1)}
    again = Copy("out")
    stream = TransactionalStream(settings, group="copy", replica="0")
    stream.add("in", again)
    with running(stream):
        until(lambda: again.counts, what="assigned")
    assert again.counts == {0: 2500, 1: 2500}


def test_the_position_reaches_the_end_behind_the_markers_of_others(settings: KafkaSettings) -> None:
    """Whoever waits until all below a partition's end is answered must not wait for the next message."""
    make(settings, "in", "out", partitions=1)
    where = Partition("in", 0)
    stream = TransactionalStream(settings, group="g", replica="0")
    copy = Copy("out")
    stream.add("in", copy)
    forwards = Transactions(settings, "forwards", group="forwards")

    def answered() -> bool:
        with Reader(settings, "g") as reader:
            end = reader.ends(where)[1]
            return end > 0 and reader.committed([where])[where] == Committed(end, str(copy.counts[0]))

    with running(stream):
        for round_ in (1, 2):
            forwards.begin()
            forwards.produce([Produced("in", 0, None, b"a"), Produced("in", 0, None, b"b")])
            forwards.commit()
            until(answered, despite=KeyError, what="the committed position is the end")
            assert copy.counts == {0: 2 * round_}
    assert everything(settings, "out")[0] == [b"a", b"b"] * 2


def test_the_end_of_a_partition_that_holds_nothing_but_markers_is_reached(settings: KafkaSettings) -> None:
    make(settings, "in", partitions=1)
    where = Partition("in", 0)
    producer = Producer(settings.client(transactional_id=settings.topic("aborts")))
    producer.init_transactions(10)
    producer.begin_transaction()
    producer.produce(settings.topic("in"), b"a")
    producer.flush(10)
    producer.abort_transaction(10)
    stream = TransactionalStream(settings, group="g", replica="0")
    stream.add("in", Copy("out"))
    with running(stream), Reader(settings, "g") as reader:
        until(
            lambda: 0 < reader.ends(where)[1] == reader.committed([where])[where].position,
            what="the committed position is the end",
        )


def test_a_message_that_is_refused_is_told_and_the_next_of_the_name_goes_on(settings: KafkaSettings) -> None:
    make(settings, "in", partitions=1)
    forwards = Transactions(settings, "forwards", group="forwards")
    forwards.begin()
    with pytest.raises(MessageRefused, match="size") as refused:
        forwards.produce([Produced("in", 0, None, b"a"), Produced("in", 0, None, b"x" * 2_000_000)])
    assert not refused.value.may_pass
    forwards.abort()
    forwards = Transactions(settings, "forwards", group="forwards")
    forwards.begin()
    forwards.produce([Produced("in", 0, None, b"b")])
    forwards.commit()
    assert everything(settings, "in") == {0: [b"b"]}


def test_what_cannot_be_processed_is_left_out_with_its_place_and_the_rest_of_its_batch_goes_on(
    settings: KafkaSettings,
) -> None:
    class Picky(Copy):
        def process(self, batch: Batch, send: Send) -> Outcome:
            outcome = super().process(batch, send)  # in the transaction by then
            if any(message.value == b"odd" for message in batch.messages):
                raise KeyError("a bug")
            return outcome

    make(settings, "in", "out")
    publish(settings, "in", [b"0", b"odd", b"2", b"odd", b"4"], partitions=1)
    picky = Picky("out")
    stream = TransactionalStream(settings, group="copy", replica="0")
    stream.add("in", picky)
    with running(stream):
        until(lambda: sum(picky.counts.values()) == 3, what="the others are copied")
        publish(settings, "in", [b"odd"], partitions=1)  # a batch of its own
        publish(settings, "in", [b"6"], partitions=1)
        until(lambda: sum(picky.counts.values()) == 4, what="the stream goes on")
    assert everything(settings, "out")[0] == [b"0", b"2", b"4", b"6"]
    assert everything(settings, "in.copy.dlq")[0] == [b""] * 3, "no value of a person"


def test_what_was_sent_before_something_was_away_is_taken_back_and_sent_once(settings: KafkaSettings) -> None:
    class Interrupted(Copy):
        tries = 0

        def process(self, batch: Batch, send: Send) -> Outcome:
            outcome = super().process(batch, send)  # in the transaction by then
            self.tries += 1
            if self.tries <= 2:
                raise Unavailable("a store is away")
            return outcome

    make(settings, "in", "out")
    values = [b"%d" % number for number in range(100)]
    publish(settings, "in", values, partitions=1)
    copy = Interrupted("out")
    stream = TransactionalStream(settings, group="copy", replica="0")
    stream.add("in", copy)
    with running(stream):
        until(lambda: sum(copy.counts.values()) == len(values), what="all are copied")
    assert copy.tries > 2
    assert everything(settings, "out")[0] == values


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "not committed"])
def test_a_commit_that_cannot_end_is_left_behind_and_nothing_is_lost_or_doubled(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    """librdkafka's call may never return, whatever time-out it is given (its issue 5456)."""
    never, stuck = threading.Event(), threading.Event()

    class Stuck(Producer):
        def commit_transaction(self, *timeout: float) -> None:
            if committed or stuck.is_set():
                super().commit_transaction(*timeout)
            if not stuck.is_set():
                stuck.set()
                never.wait()

    monkeypatch.setattr("penstock.runtime.kafka.clients.Producer", Stuck)
    monkeypatch.setattr("penstock.runtime.kafka.transaction.CALL_S", 1.0)
    make(settings, "in", "out")
    values = [b"%05d" % number for number in range(1000)]
    publish(settings, "in", values)
    copy = Copy("out")
    stream = TransactionalStream(settings, group="copy", replica="0", batch=300)
    stream.add("in", copy)
    try:
        with running(stream):
            until(lambda: sum(copy.counts.values()) == len(values), what="all are copied")
    finally:
        never.set()
    assert stuck.is_set()
    assert everything(settings, "out") == {number: values[number::2] for number in (0, 1)}


def test_of_two_with_one_name_the_older_ends(settings: KafkaSettings) -> None:
    make(settings, "in", "other", "out")
    ended: list[Exception] = []
    older = TransactionalStream(settings, group="copy", replica="0")
    older.add("in", Copy("out"))

    def run() -> None:
        try:
            older.run(threading.Event())
        except Exception as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    publish(settings, "in", [b"1", b"2"])
    until(lambda: sum(map(len, everything(settings, "out").values())) == 2, what="the older works")
    newer, copy = TransactionalStream(settings, group="copy", replica="0"), Copy("out")
    newer.add("other", copy)
    publish(settings, "other", [b"3"])
    with running(newer):
        until(lambda: copy.counts.get(0), what="the newer works")
        publish(settings, "in", [b"4"])
        thread.join(60)
    assert [type(error) for error in ended] == [ClientFailed]


class Memory:
    """A sink that keeps its positions as a database would."""

    def __init__(self) -> None:
        self.values: dict[int, list[bytes]] = {}
        self.positions: dict[Partition, int] = {}
        self.ends: dict[Partition, int] = {}

    def assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        return {
            partition: self.positions[partition] for partition in partitions if partition in self.positions
        }

    def write(self, batch: Batch) -> None:
        self.values.setdefault(batch.partition.number, []).extend(
            message.value or b"" for message in batch.messages
        )
        self.positions[batch.partition] = batch.position

    def reached(self, partition: Partition, position: int) -> None:
        self.ends[partition] = position

    def revoked(self, partitions: Sequence[Partition]) -> None:
        pass

    def all_behind_markers(self) -> bool:
        """Tells whether the end of both partitions was reached, and lies behind the last message."""
        positions = dict(self.positions)
        return len(positions) == 2 and all(self.ends.get(where, 0) > at for where, at in positions.items())


def test_a_member_that_does_not_close_ends_its_stream(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Holding(Memory):
        def revoked(self, partitions: Sequence[Partition]) -> None:
            released.wait()  # librdkafka's close waits for it

    released = threading.Event()
    monkeypatch.setattr(clients, "CLOSE_S", 0.5)
    make(settings, "records")
    publish(settings, "records", [b"read"] * 10)
    sink = Holding()
    stream = PositionedStream(settings, group="sink", sink=sink)
    stream.subscribe("records")
    try:
        with pytest.raises(AssertionError, match="a consumer has not closed"), running(stream):
            until(lambda: sum(map(len, sink.values.values())) == 10, what="all are read")
    finally:
        released.set()


def test_a_sink_goes_on_where_its_data_ends(settings: KafkaSettings) -> None:
    make(settings, "in", "records")
    publish(settings, "in", [b"%05d" % number for number in range(1000)])
    stream = TransactionalStream(settings, group="copy", replica="0", batch=300)
    stream.add("in", Copy("records"))
    sink = Memory()
    with running(stream):
        for after, total in ((0, 1000), (1000, 1500)):
            publish(settings, "in", [b"%05d" % number for number in range(after, total)] if after else [])
            reader = PositionedStream(settings, group="sink", sink=sink)
            reader.subscribe("records")
            with running(reader):
                until(
                    lambda n=total: sum(map(len, sink.values.values())) == n,
                    what=f"{total} written",
                )
                # An end of before the last batch may have been told, too.
                until(sink.all_behind_markers, what="both ends reached, and markers lie between")
            sink.ends.clear()
    assert sink.values == {number: [b"%05d" % value for value in range(number, 1500, 2)] for number in (0, 1)}


@pytest.mark.slow
@pytest.mark.parametrize("away", [1.0, 13.0], ids=["shorter than the session", "longer than the transaction"])
def test_both_go_on_by_themselves_when_the_broker_was_killed(away: float) -> None:
    values = [b"%05d" % number for number in range(8000)]
    with EmbeddedKafka() as kafka:
        settings = kafka.settings("outage.")
        make(settings, "in", "out")
        copy, sink = Copy("out"), Memory()
        stream, reader = (
            TransactionalStream(settings, group="copy", replica="0", batch=50),
            PositionedStream(settings, group="sink", sink=sink),
        )
        stream.add("in", copy)
        reader.subscribe("out")
        with running(stream), running(reader):
            publish(settings, "in", values)
            until(lambda: sum(copy.counts.values()) > 1000, what="some are copied")
            kafka.kill()
            back = time.monotonic() + away
            until(lambda: time.monotonic() > back, within=2 * away + 60, what="it is away")
            kafka.start()
            until(lambda: sum(copy.counts.values()) == len(values), what="all are copied")
            until(lambda: sum(map(len, sink.values.values())) == len(values), what="all are written")
        expected = {number: values[number::2] for number in (0, 1)}
        assert sink.values == expected
        assert everything(settings, "out") == expected


def test_one_that_has_no_topic_yet_says_when_kafka_is_away_and_when_it_is_back() -> None:
    """A service without a pipeline: no message will show it that Kafka is there again."""
    readiness = Readiness(lambda: datetime.now(UTC))
    with (
        EmbeddedKafka() as kafka,
        running(TransactionalStream(kafka.settings("idle."), group="idle", replica="0", readiness=readiness)),
    ):
        for end in (kafka.kill, kafka.stop):
            until(lambda: readiness.ready, what="it waits for nothing")
            end()
            until(lambda: not readiness.ready, what="it says that Kafka is away")
            kafka.start()
        until(lambda: readiness.ready, what="it says that Kafka is back")
