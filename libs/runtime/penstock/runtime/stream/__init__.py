"""The data plane: many messages, alike, in batches of thousands. Raw confluent-kafka, one blocking
loop in a thread of its own.

`TransactionalStream` answers each batch with an `Outcome` and commits it with the batch's offsets
in one Kafka transaction. `PositionedStream` hands each batch to a `Sink` that keeps the position
together with its data.

Topics are named as in the catalogue; the installation's prefix is added here and nowhere else.
"""

from penstock.runtime.stream.group import BATCH, StreamFailed, librdkafka_log
from penstock.runtime.stream.messages import (
    BEGINNING,
    Batch,
    Committed,
    Headers,
    Message,
    Outcome,
    Partition,
    Produced,
)
from penstock.runtime.stream.positioned import PositionedStream, Sink
from penstock.runtime.stream.spans import linked_span
from penstock.runtime.stream.transactional import Processor, TransactionalStream

__all__ = [
    "BATCH",
    "BEGINNING",
    "Batch",
    "Committed",
    "Headers",
    "Message",
    "Outcome",
    "Partition",
    "PositionedStream",
    "Processor",
    "Produced",
    "Sink",
    "StreamFailed",
    "TransactionalStream",
    "librdkafka_log",
    "linked_span",
]
