"""The recorder: every line of the door's log becomes a message of `<p>.predictions.v1`, exactly once.

One Kafka transaction holds a batch of predictions *and* the position in the log after it. The
position is committed as an offset of the group `penstock.inference.recorder`: the topic-partition
is `deployments.v1`/0, which is ours and always there; the offset is the byte in the file; the
offset's metadata says which file. `send_offsets_to_transaction` makes it part of the transaction,
so predictions and position become visible together or not at all. After a `kill -9` at any point
the next recorder first ends what its predecessor left open (`init_transactions` with the same
transactional id), then reads the committed position, and goes on there.

One recorder per door: a lock on the door's folder keeps a second one of this machine waiting; the
transactional id fences one that is still running elsewhere, which then stops for good.

Kafka forgets a group's offsets when nothing was committed for `offsets.retention.minutes` (a week
by default). So the position is committed again every hour, and written to a file after each commit
for a longer absence; only there a batch could be doubled, by a crash between commit and file that
is followed by a week's absence.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import orjson
import structlog
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from penstock.contracts import metrics
from penstock.contracts.dataplane import Prediction
from penstock.contracts.errors import PenstockError, Unavailable
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import predictions_topic
from penstock.runtime.kafka.bounded import bounded
from penstock.runtime.kafka.spans import linked_span
from penstock.runtime.messaging import GROUP as GROUP_NAME
from penstock.runtime.messaging import sent
from penstock.runtime.metrics import counter, histogram
from penstock.runtime.readiness import Readiness
from penstock.runtime.settings import KafkaSettings
from penstock.runtime.telemetry import context_of
from penstock_inference.record.housekeeping import Housekeeping
from penstock_inference.record.origin import Origins
from penstock_inference.record.predictions import Unattributed, encoded, read_line
from penstock_inference.record.spool import Position, Tail, mended
from penstock_inference.serving.deployment import Deployments
from penstock_inference.serving.layout import Layouts
from penstock_inference.settings import Settings

log = structlog.get_logger(__name__)
_PREDICTIONS = histogram(metrics.PREDICTIONS)
_ROWS = counter(metrics.PREDICTED_ROWS)
_LINES = counter(metrics.RECORDED)
_TRANSACTIONS = histogram(metrics.TRANSACTIONS)
_INTERRUPTIONS = counter(metrics.INTERRUPTIONS)

GROUP: Final = "penstock.inference.recorder"
ANCHOR: Final = "deployments.v1"
EVERY_S: Final = 0.25
"""Between two looks at the log. A transaction costs the broker some 10 ms of a core, however few
predictions it holds.
"""
KAFKA_S: Final = 10.0
COMMIT_AGAIN_S: Final = 3600.0
BACKOFF_S: Final = (0.2, 0.5, 1.0, 2.0)


class Fenced(PenstockError):
    """Another recorder has taken this door."""


@dataclass
class Progress:
    """What the recorder has done since it started. Read from other threads."""

    recorded: int = 0
    undecoded: int = 0
    unattributed: int = 0
    backlog_bytes: int = 0
    waiting: str | None = None
    """Why it does not get on."""
    committed: Position | None = None


@dataclass(frozen=True)
class RecorderSettings:
    kafka: KafkaSettings
    folder: Path
    """The door's."""
    position_file: Path
    replica: str = "0"


@dataclass
class Recorder:
    settings: RecorderSettings
    layouts: Layouts
    ensure_topic: Callable[[str], None]
    """Makes a pipeline's topic when it is missing. Raises Unavailable."""
    tidy: Callable[[Tail, Position | None], None]
    """Called between batches: rotation, deletion."""
    origins: Origins | None = None
    """Believes which events a prediction by entity was made from."""
    status: Readiness | None = None
    progress: Progress = field(default_factory=Progress)

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        deployments: Deployments,
        readiness: Readiness,
        ensure_topic: Callable[[Pipeline], None],
        origins: Origins,
    ) -> Self:
        door = settings.door
        return cls(
            RecorderSettings(
                settings.platform.kafka, door.folder, settings.data_dir / "recorder.json", settings.replica
            ),
            layouts=deployments.layout,
            ensure_topic=lambda pipeline: ensure_topic(deployments.of(pipeline).declared),
            tidy=Housekeeping(door, settings.log_rotate_bytes, settings.log_rotate_after, settings.log_keep),
            origins=origins,
            status=readiness,
        )

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. Raises Fenced; waits out everything that passes."""
        _INTERRUPTIONS.add(0, {GROUP_NAME: GROUP})
        with _locked(self.settings.folder / "recorder.lock", stop):
            failures = 0
            while not stop.is_set():
                try:
                    self._session(stop)
                except (KafkaException, Unavailable) as error:
                    _raise_if_fatal(error)
                    self._wait(str(error))
                    _INTERRUPTIONS.add(1, {GROUP_NAME: GROUP})
                    if failures == 0:
                        log.warning("recorder_waits", reason=str(error))
                    stop.wait(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
                    failures += 1

    def _session(self, stop: threading.Event) -> None:
        spool = _Spool(self.settings)
        tail: Tail | None = None
        try:
            position = spool.begin()
            log.info(
                "recorder_begins",
                file=position.file if position else None,
                offset=position.offset if position else 0,
            )
            tail = Tail(self.settings.folder, position)
            self.progress.committed = position
            committed_at = time.monotonic()
            while not stop.is_set():
                lines = tail.read()
                if lines:
                    self._publish(spool, lines.lines, lines.position)
                elif position and time.monotonic() - committed_at > COMMIT_AGAIN_S:
                    spool.commit([], [], position)
                else:
                    self._look_around(tail, position)
                    stop.wait(EVERY_S)
                    continue
                position, committed_at = (lines.position if lines else position), time.monotonic()
                self.progress.committed = position
                self._look_around(tail, position)
                if not lines or not lines.full:
                    stop.wait(EVERY_S)
        finally:
            if tail:
                tail.close()

    def _look_around(self, tail: Tail, position: Position | None) -> None:
        self.progress.backlog_bytes = tail.backlog_bytes()
        self._wait(None)
        self.tidy(tail, position)

    def _wait(self, reason: str | None) -> None:
        self.progress.waiting = reason
        if self.status:
            if reason:
                self.status.waits_for("record", reason)
            else:
                self.status.has("record")
            self.status.fact(
                "record",
                f"{self.progress.recorded} predictions recorded, {self.progress.backlog_bytes} bytes behind",
            )

    def _publish(self, spool: _Spool, lines: list[bytes], position: Position) -> None:
        predictions: list[tuple[str, Prediction]] = []
        reasons: list[str] = []
        for line in lines:
            try:
                predictions.append(read_line(mended(line), self.layouts, self.origins))
            except Unattributed as reason:
                reasons.append(str(reason))
            except Exception as error:  # a line that nobody foresaw must not stop the record for good
                log.exception("line_unreadable", bytes=len(line))
                reasons.append(repr(error))
        if reasons:
            log.warning("predictions_unattributed", lines=len(reasons), first=reasons[0])
        for pipeline in {pipeline for pipeline, _ in predictions}:
            if not spool.has_topic(pipeline):
                self.ensure_topic(pipeline)
        traces = (
            prediction["traceparent"].encode() for _, prediction in predictions if prediction["traceparent"]
        )
        values = [encoded(prediction) for _, prediction in predictions]
        with linked_span(
            "record predictions",
            traces,
            {"messaging.system": "kafka", "messaging.batch.message_count": len(predictions)},
        ):
            spool.commit(predictions, values, position)
        undecoded = sum(prediction["undecoded"] is not None for _, prediction in predictions)
        self.progress.recorded += len(predictions)
        self.progress.undecoded += undecoded
        self.progress.unattributed += len(reasons)
        _measure(predictions, undecoded, len(reasons))


class _Spool:
    """Kafka's side: one transactional producer."""

    def __init__(self, settings: RecorderSettings) -> None:
        self._settings = settings
        self._kafka = settings.kafka
        identity = self._kafka.topic(f"{GROUP}.{settings.replica}")
        self._group = identity
        self._anchor = self._kafka.topic(ANCHOR)
        self._known_topics: set[str] = set()
        self._producer = Producer(
            self._kafka.client(
                transactional_id=identity,
                transaction_timeout_ms=10_000,
                linger_ms=0,
                acks="all",
                compression_type="lz4",
                queue_buffering_max_messages=200_000,
            )
            # The default crawls: each transaction waits for it several times.
            | {"retry.backoff.ms": 1, "partitioner": "murmur2_random"}
        )

    def begin(self) -> Position | None:
        """Ends the predecessor's transaction, then reads where it was."""
        self._producer.init_transactions(KAFKA_S)
        consumer = Consumer(
            self._kafka.client(
                group_id=self._group,
                enable_auto_commit=False,
                isolation_level="read_committed",
                auto_offset_reset="error",
            )
        )
        try:
            (found,) = consumer.committed([TopicPartition(self._anchor, 0)], KAFKA_S)
            if found.error:
                raise KafkaException(found.error)
            self._metadata = consumer.consumer_group_metadata()
        finally:
            consumer.close()
        if found.offset >= 0 and found.metadata:
            return Position(found.metadata, found.offset)
        return _read_position(self._settings.position_file)

    def has_topic(self, pipeline: str) -> bool:
        topic = self._kafka.topic(predictions_topic(pipeline))
        if topic not in self._known_topics:
            found = self._producer.list_topics(topic, KAFKA_S).topics[topic]
            if found.error is None:
                self._known_topics.add(topic)
        return topic in self._known_topics

    def commit(
        self, predictions: list[tuple[str, Prediction]], values: list[bytes], position: Position
    ) -> None:
        """Predictions, `values` as they are published, and position, in one transaction.

        Raises KafkaException or Unavailable: what became of it is for the next session to find out,
        which ends what is open under the same name and asks for the committed position.
        """
        began = time.perf_counter()
        self._producer.begin_transaction()
        for (pipeline, prediction), value in zip(predictions, values, strict=True):
            self._produce(pipeline, prediction, value)
        for pipeline, messages in Counter(pipeline for pipeline, _ in predictions).items():
            sent(predictions_topic(pipeline), messages)
        offset = TopicPartition(self._anchor, 0, position.offset, metadata=position.file)
        bounded(
            lambda: self._producer.send_offsets_to_transaction([offset], self._metadata, KAFKA_S), 2 * KAFKA_S
        )
        bounded(lambda: self._producer.commit_transaction(KAFKA_S), 2 * KAFKA_S)
        _TRANSACTIONS.record(time.perf_counter() - began, {GROUP_NAME: GROUP})
        _write_position(self._settings.position_file, position)

    def _produce(self, pipeline: str, prediction: Prediction, value: bytes) -> None:
        headers: dict[str, Any] = {"content-type": b"application/json"}
        if prediction["traceparent"]:
            headers["traceparent"] = prediction["traceparent"].encode()
        while True:
            try:
                self._producer.produce(
                    self._kafka.topic(predictions_topic(pipeline)),
                    value,
                    prediction["id"].encode(),
                    headers=headers,
                )
            except BufferError:
                self._producer.poll(0.1)
            else:
                break


def _measure(predictions: list[tuple[str, Prediction]], undecoded: int, unattributed: int) -> None:
    """What was published, each in the trace that its client was in."""
    for outcome, lines in (
        ("recorded", len(predictions) - undecoded),
        ("undecoded", undecoded),
        ("unattributed", unattributed),
    ):
        _LINES.add(lines, {"outcome": outcome})
    for pipeline, prediction in predictions:
        attributes = {
            "pipeline": pipeline,
            "protocol": prediction["protocol"],
            "status": prediction["status"],
        }
        traceparent = prediction["traceparent"]
        _PREDICTIONS.record(
            prediction["milliseconds"] / 1000,
            attributes,
            context_of({"traceparent": traceparent}) if traceparent else None,
        )
        if prediction["status"] == "OK" and prediction["rows"]:
            _ROWS.add(prediction["rows"], {"pipeline": pipeline})


def _raise_if_fatal(error: Exception) -> None:
    if isinstance(error, KafkaException) and error.args[0].fatal():
        raise Fenced(
            f"the recorder may not publish any more: {error.args[0].str()}",
            remedy=(
                "Run one inference service per front door, or give each its own PENSTOCK_INFERENCE__REPLICA"
                " and home"
            ),
        ) from error


def _read_position(path: Path) -> Position | None:
    try:
        said = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None
    log.warning("position_from_file", why="Kafka holds none", file=said["file"], offset=said["offset"])
    return Position(said["file"], said["offset"])


def _write_position(path: Path, position: Position) -> None:
    beside = path.with_suffix(".new")
    beside.write_bytes(orjson.dumps({"file": position.file, "offset": position.offset}))
    beside.replace(path)


@contextmanager
def _locked(path: Path, stop: threading.Event) -> Iterator[None]:
    """Waits its turn; the lock goes with the process, however that ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not stop.is_set():
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stop.wait(0.5)
            else:
                break
        yield
    finally:
        os.close(descriptor)
