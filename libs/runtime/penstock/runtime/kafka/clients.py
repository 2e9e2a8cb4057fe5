"""Makes librdkafka's clients, one function a kind, each kind's settings once.

A *member* joins a consumer group. A *reader* joins none: it asks where a group stands and reads
partitions that it chooses. A *producer* publishes message by message; what a *transactional
producer* publishes becomes visible all at once.

A call of librdkafka's may never return after an outage, whatever time-out it is given (its issue
5456; `close` was seen to wait for ever, too), so such calls are `bounded`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, Literal

from confluent_kafka import Consumer, KafkaError, Producer

from penstock.contracts.errors import Unavailable
from penstock.runtime.kafka.recovery import ClientFailed
from penstock.runtime.settings import KafkaSettings

CALL_S: Final = 10.0  # seconds that one call to Kafka may take
CLOSE_S: Final = 10.0  # seconds that a client may take to close; it leaves its group meanwhile
SESSION_MS: Final = 6_000  # until a killed member's partitions go to another
TRANSACTION_MS: Final = 10_000  # until Kafka aborts a transaction that a dead process left open

Isolation = Literal["read_committed", "read_uncommitted"]

_log = logging.getLogger("penstock.librdkafka")
# Connection failures come many times a second as long as Kafka is away; `kafka_away` says it once.
_log.addFilter(lambda record: not record.getMessage().startswith("FAIL"))


def member(kafka: KafkaSettings, group: str, on_error: Callable[[KafkaError], None]) -> Consumer:
    """A consumer that can subscribe in `group`, Kafka's name of it, and is told the end of each
    partition. `on_error` is called while the consumer is polled.

    The classic protocol with the range assignor and no static membership: a member that left is
    replaced at once, one that was killed after the session timeout.
    """
    settings = kafka.client(
        group_id=group,
        enable_auto_commit=False,
        enable_auto_offset_store=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        partition_assignment_strategy="range",
        session_timeout_ms=SESSION_MS,
        heartbeat_interval_ms=SESSION_MS // 3,
        enable_partition_eof=True,
        topic_metadata_refresh_interval_ms=10_000,
        allow_auto_create_topics=False,
    )
    return Consumer(settings | {"error_cb": on_error}, logger=_log)


def reader(kafka: KafkaSettings, group: str, *, isolation: Isolation, fetch_wait_ms: int) -> Consumer:
    """A consumer that may ask what `group`, Kafka's name of it, has committed; it never joins it.

    The end of a partition is told when a fetch of `fetch_wait_ms` came back empty.
    """
    settings = kafka.client(
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level=isolation,
        enable_partition_eof=True,
        fetch_wait_max_ms=fetch_wait_ms,
        topic_metadata_refresh_interval_ms=60_000,
        allow_auto_create_topics=False,
    )
    return Consumer(settings, logger=_log)


def producer(kafka: KafkaSettings, *, within_s: float) -> Producer:
    """A producer outside of transactions; what is not acknowledged within this time fails."""
    settings = kafka.client(enable_idempotence=True, message_timeout_ms=round(within_s * 1000))
    return Producer(settings, logger=_log)


def transactional_producer(
    kafka: KafkaSettings,
    transactional_id: str,
    *,
    compression: str,
    on_failure: Callable[[KafkaError, object], None],
) -> Producer:
    """A producer whose transactions bear this id. `on_failure` is called, while the producer is, with
    the error of each message that was not delivered.
    """
    settings = kafka.client(
        transactional_id=transactional_id,
        transaction_timeout_ms=TRANSACTION_MS,
        retry_backoff_ms=1,  # each transaction waits for it several times; the default crawls
        linger_ms=5,  # each message alone wakes librdkafka's thread otherwise; a commit sends at once
        acks="all",
        compression_type=compression,
        partitioner="murmur2_random",
        delivery_report_only_error=True,
    )
    return Producer(settings | {"on_delivery": on_failure}, logger=_log)


def close(client: Consumer) -> None:
    """Closes a consumer. Blocks for 10 s at most. Raises ClientFailed where it has not closed by then:
    it still is a member of its group, for all that is known, until its process ends.
    """
    try:
        bounded(client.close, CLOSE_S)
    except Unavailable as error:
        raise ClientFailed(f"a consumer has not closed within {CLOSE_S:.0f} s") from error


def bounded(call: Callable[[], None], seconds: float) -> None:
    """Waits for a call for so many seconds. Raises what it raises, and Unavailable where it has not
    returned: it is left behind then, in a thread that keeps no process alive.
    """
    answer: Future[None] = Future()

    def run() -> None:
        try:
            call()
            answer.set_result(None)
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        answer.result(seconds)
    except TimeoutError as error:
        raise Unavailable(f"Kafka has not answered within {seconds:.0f} s") from error
