"""Says in Kafka who may do what: users with passwords (SCRAM), and rights from the catalogue.

Only who is told so grants (`PENSTOCK_KAFKA__GRANTS`): a Kafka of somebody else's is left as it is.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    KafkaAdminClient,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
    UserScramCredentialUpsertion,
)

from penstock.contracts.connection import SCRAM
from penstock.contracts.errors import Unavailable
from penstock.contracts.rights import Right, pipeline_rights, standing_rights
from penstock.contracts.topics import SHARED, Topic
from penstock.runtime.backoff import until_available
from penstock.runtime.kafka.admin import admin_client, ensure_topics
from penstock.runtime.settings import KafkaSettings, Platform

_POLL_S: Final = 0.05
_KNOWN_WITHIN_S: Final = 10.0
_CONTAINERS_WITHIN_S: Final = 60.0
_BEFORE, _AFTER = "kafka_", "_password"  # a user's name, in that of the password's file in containers


def open_for(kafka: KafkaSettings, passwords: Mapping[str, str], *, within_s: float) -> None:
    """Makes the shared topics, the rights on them, and a user for each password, as soon as Kafka
    answers. Changes nothing where all are there. `kafka` is somebody's who may do everything.

    Blocks; raises Unavailable after `within_s` seconds.
    """
    until_available(lambda: _open_for(kafka, passwords), within_s)


def _open_for(kafka: KafkaSettings, passwords: Mapping[str, str]) -> None:
    """Users come last: who can log in has its rights."""
    ensure_topics(kafka, SHARED)
    grant(kafka, standing_rights(kafka.topic_prefix))
    with admin_client(kafka, "users") as admin:
        users = [UserScramCredentialUpsertion(user, SCRAM, secret) for user, secret in passwords.items()]
        refused = {user: why for user, why in admin.alter_user_scram_credentials(users).items() if why}
    if refused:
        raise Unavailable(f"Kafka made no users: {refused}")


def grant_topics(kafka: KafkaSettings, topics: Iterable[Topic]) -> None:
    """Grants the rights on a pipeline's `topics`, where this Kafka's rights are ours to grant. Blocks; raises
    Unavailable.
    """
    if kafka.grants:
        grant(kafka, pipeline_rights(topics, kafka.topic_prefix))


def grant(kafka: KafkaSettings, rights: Iterable[Right]) -> None:
    """Returns when a broker knows the rights: the controller, which takes them, is ahead of it."""
    wanted = [_entry(right) for right in rights]
    with admin_client(kafka, "rights") as admin:
        if failed := admin.create_acls(wanted)["failed"]:
            raise Unavailable(f"Kafka does not grant rights: {failed[0].__name__}")
        deadline = time.monotonic() + _KNOWN_WITHIN_S
        while not _known(admin) >= {_key(entry) for entry in wanted}:
            if time.monotonic() > deadline:
                raise Unavailable(f"no broker knows the rights that were granted {_KNOWN_WITHIN_S:g} s ago")
            time.sleep(_POLL_S)  # a broker learns of them from the controller by itself


def _known(admin: KafkaAdminClient) -> set[tuple[object, ...]]:
    everything = ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY)
    anything = ACLFilter(None, None, ACLOperation.ANY, ACLPermissionType.ANY, everything)
    entries, error = admin.describe_acls(anything)
    if error.errno:
        raise Unavailable(f"Kafka does not tell its rights: {error.__name__}")
    return {_key(entry) for entry in entries}


def _key(entry: ACL) -> tuple[object, ...]:
    place = entry.resource_pattern
    who = (entry.principal, entry.operation, entry.permission_type)
    return (*who, place.resource_type, place.resource_name, place.pattern_type)


def _entry(right: Right) -> ACL:
    pattern = ACLResourcePatternType.PREFIXED if right.prefixed else ACLResourcePatternType.LITERAL
    return ACL(
        principal=f"User:{right.user}",
        host="*",
        operation=ACLOperation[right.operation],
        permission_type=ACLPermissionType.DENY if right.denied else ACLPermissionType.ALLOW,
        resource_pattern=ResourcePattern(ResourceType[right.resource], right.name, pattern),
    )


def main(secrets: Path) -> None:
    """Opens the Kafka that the environment names for every user with a password in this folder."""
    kafka = Platform().kafka
    passwords = {
        path.name.removeprefix(_BEFORE).removesuffix(_AFTER): path.read_text()
        for path in secrets.glob(f"{_BEFORE}*{_AFTER}")
    }
    passwords.pop(str(kafka.sasl_username), None)
    open_for(kafka, passwords, within_s=_CONTAINERS_WITHIN_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
