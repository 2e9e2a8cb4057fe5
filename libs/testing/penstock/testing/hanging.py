"""Positions that Kafka holds back for a transaction that it knows no more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.protocol.producer import InitProducerIdRequest, TxnOffsetCommitRequest

from penstock.contracts.errors import Unavailable
from penstock.runtime.kafka.messages import Partition
from penstock.runtime.kafka.reading import Reader
from penstock.runtime.kafka.transaction import Transactions
from penstock.runtime.settings import KafkaSettings
from penstock.testing.wait import until

_BROKER = "1"
_CHECK = "transaction.partition.verification.enable"


def leave_hanging(kafka: KafkaSettings, transactional_id: str, group: str, partition: Partition) -> None:
    """Commits a position of `group` with an id whose transaction has not begun, as a commit does that
    comes after its transaction's end; brokers let that happen where they do not check it, and in races.
    """
    Transactions(kafka, kafka.topic(transactional_id), group=group)  # each asks for its coordinator
    with suppress(Unavailable), Reader(kafka, group) as reader:
        reader.committed([partition])
    named = TxnOffsetCommitRequest.TxnOffsetCommitRequestTopic
    place = named.TxnOffsetCommitRequestPartition(
        partition_index=partition.number, committed_offset=1, committed_leader_epoch=-1, committed_metadata=""
    )
    with closing(KafkaAdminClient(**kafka.admin())) as admin, _unchecked(admin):
        manager = admin._manager
        begun = InitProducerIdRequest(
            transactional_id=kafka.topic(transactional_id),
            transaction_timeout_ms=60_000,
            producer_id=-1,
            producer_epoch=-1,
            max_version=3,
        )
        until(
            lambda: manager.run(manager.send, begun).error_code == 0, what="transactions have a coordinator"
        )
        made = manager.run(manager.send, begun)
        commit = TxnOffsetCommitRequest(
            transactional_id=kafka.topic(transactional_id),
            group_id=kafka.topic(group),
            producer_id=made.producer_id,
            producer_epoch=made.producer_epoch,
            generation_id=-1,
            member_id="",
            group_instance_id=None,
            topics=[named(name=kafka.topic(partition.topic), partitions=[place])],
            max_version=3,
        )
        until(
            lambda: manager.run(manager.send, commit).topics[0].partitions[0].error_code == 0,
            what="the broker holds the position back",
        )


@contextmanager
def _unchecked(admin: KafkaAdminClient) -> Iterator[None]:
    """While inside, the broker does not check that a commit's transaction has begun."""
    admin.alter_configs([_resource("SET", "false")])
    try:
        yield
    finally:
        admin.alter_configs([_resource("DELETE", None)])


def _resource(how: str, value: str | None) -> ConfigResource:
    return ConfigResource(ConfigResourceType.BROKER, _BROKER, configs={_CHECK: (how, value)})
