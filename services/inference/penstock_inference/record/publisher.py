"""Publishes predictions, each once: they and the position in the door's log are one Kafka
transaction.

The position is committed as an offset of the group `penstock.inference.recorder.<replica>`: the
topic-partition is `deployments.v1`/0, which is ours and always there; the offset is the byte in the
file; the offset's metadata says which file. So predictions and position become visible together or
not at all. After a `kill -9` at any point the next publisher first ends what its predecessor left
open (its transactional id is the same), then reads the committed position.

Kafka forgets a group's offsets when nothing was committed for `offsets.retention.minutes` (a week
by default). So the position is also written to a file after each commit, for a longer absence; only
there a batch could be doubled, by a crash between commit and file that is followed by a week's
absence.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import orjson
import structlog

from penstock.contracts.dataplane import Prediction
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import pipeline_topics, predictions_topic
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.kafka.messages import BY_KEY, Committed, Partition, Produced
from penstock.runtime.kafka.reading import Reader
from penstock.runtime.kafka.transaction import Transactions
from penstock.runtime.settings import KafkaSettings
from penstock.serving.records import encoded
from penstock_inference.record.spool import Position

log = structlog.get_logger(__name__)

GROUP: Final = "penstock.inference.recorder"
_HEADERS: Final = (("content-type", b"application/json"),)
ANCHOR: Final = Partition("deployments.v1", 0)


class Publisher:
    """Publisher of one session. Methods raise KafkaException or Unavailable: the next session's
    publisher finds out what became of the predictions.
    """

    def __init__(self, kafka: KafkaSettings, replica: str, position_file: Path) -> None:
        """Ends the predecessor's transaction, then reads its position. Blocks."""
        self._kafka = kafka
        self._file = position_file
        self._known_topics: set[str] = set()
        group = f"{GROUP}.{replica}"
        self._transactions = Transactions(kafka, kafka.topic(group), group=GROUP, compression="lz4")
        with Reader(kafka, group) as reader:
            committed = reader.committed([ANCHOR])[ANCHOR]
            self._group = reader.client.consumer_group_metadata()
        self.committed_at = time.monotonic()
        # Place in the door's log as of the last commit; None where nothing was ever published.
        self.position = (
            Position(committed.metadata, committed.position)
            if committed.position >= 0 and committed.metadata
            else _read_position(position_file)
        )

    def has_topic(self, pipeline: str) -> bool:
        """Tells whether the pipeline's topic is there. Asks Kafka until it is."""
        topic = predictions_topic(pipeline)
        if topic not in self._known_topics:
            with Reader(self._kafka, GROUP) as reader:
                if reader.partitions(topic):
                    self._known_topics.add(topic)
        return topic in self._known_topics

    def publish(self, messages: Sequence[Produced], position: Position) -> None:
        """Commits predictions, and the position in the log after them."""
        self._transactions.begin()
        self._transactions.produce(messages)
        self._transactions.commit({ANCHOR: Committed(position.offset, position.file)}, self._group)
        _write_position(self._file, position)
        self.position, self.committed_at = position, time.monotonic()


def ensure_predictions_topic(kafka: KafkaSettings, pipeline: Pipeline) -> None:
    """Makes the topic of a pipeline's predictions where it is missing, with the retention that the
    pipeline asks for. Blocks. Raises Unavailable.
    """
    name = predictions_topic(pipeline.pipeline)
    ensure_topics(kafka, [topic for topic in pipeline_topics(pipeline) if topic.name == name])


def message(pipeline: str, prediction: Prediction) -> Produced:
    """Encodes a prediction for its pipeline's topic."""
    trace = prediction["traceparent"]
    headers = (*_HEADERS, ("traceparent", trace.encode())) if trace else _HEADERS
    key = prediction["id"].encode()
    return Produced(predictions_topic(pipeline), BY_KEY, key, encoded(prediction), headers)


def _read_position(path: Path) -> Position | None:
    try:
        said = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None
    log.warning("position_from_file", why="Kafka holds none", file=said["file"], offset=said["offset"])
    return Position(**said)


def _write_position(path: Path, position: Position) -> None:
    beside = path.with_suffix(".new")
    beside.write_bytes(orjson.dumps(position))
    beside.replace(path)
