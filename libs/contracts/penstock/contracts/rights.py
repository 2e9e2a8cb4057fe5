"""Rights in Kafka, derived from the topic catalogue and the table of services: nothing else lists
them.

A topic's kind stands at the end of its name, and Kafka's patterns match beginnings alone. So each
topic has rights of its own, granted when it is made; groups and transactional ids begin with their
service's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from penstock.contracts.services import SERVICES
from penstock.contracts.topics import SHARED, Topic

USERS: Final = "users"  # as the catalogue calls them
# As Kafka calls whoever comes without a password, to the embedded stack, and with the password that
# containers ask publishers for.
PUBLISHERS: Final = ("ANONYMOUS", "publisher")
# The service that makes each pipeline's topics.
GRANTER: Final = next(topic.owner for topic in SHARED if "PipelineApplied" in topic.messages)

Operation = Literal[
    "ALTER", "ALTER_CONFIGS", "CREATE", "DELETE", "DESCRIBE", "DESCRIBE_CONFIGS", "READ", "WRITE"
]
Resource = Literal["CLUSTER", "GROUP", "TOPIC", "TRANSACTIONAL_ID"]
_MAKING: Final[tuple[Operation, ...]] = ("CREATE", "ALTER", "ALTER_CONFIGS")
_KEEPING: Final[tuple[Operation, ...]] = ("CREATE", "ALTER_CONFIGS", "WRITE", "READ")


@dataclass(frozen=True)
class Right:
    """An entry of Kafka's access control list. `prefixed`: of everything whose name begins so."""

    user: str
    operation: Operation
    resource: Resource
    name: str
    prefixed: bool = False
    denied: bool = False


def group(service: str) -> str:
    """Beginning of a service's groups and transactional ids."""
    return f"penstock.{service}"


def readers(topic: Topic) -> set[str]:
    """Consumers and the owner, who goes on where it stopped; users read what is said to be for them."""
    return {*topic.consumers, *({topic.owner} - {USERS})}


def topic_rights(topics: Iterable[Topic], prefix: str = "") -> Iterator[Right]:
    """Yields who may use each of these topics, by their real names less `prefix`: its producers write
    it, its owner and consumers read it; each puts aside what it cannot apply, for users to see.
    """
    for topic in topics:
        name = prefix + topic.name
        yield from _each(topic.producers, "WRITE", "TOPIC", name)
        yield from _each(readers(topic), "READ", "TOPIC", name)
        for reader in readers(topic) - {USERS}:
            letters = f"{name}.{group(reader)}"
            for operation in _KEEPING:
                yield Right(reader, operation, "TOPIC", letters, prefixed=True)
            yield from _each([USERS], "READ", "TOPIC", letters, prefixed=True)


def pipeline_rights(topics: Iterable[Topic], prefix: str = "") -> Iterator[Right]:
    """Yields the rights on a pipeline's own topics: those of `topic_rights`, and the registry's to delete
    them with their dead letters. Shared topics nobody deletes.
    """
    topics = list(topics)
    yield from topic_rights(topics, prefix)
    for topic in topics:
        yield Right(GRANTER, "DELETE", "TOPIC", prefix + topic.name)
        yield Right(GRANTER, "DELETE", "TOPIC", f"{prefix}{topic.name}.{group('')}", prefixed=True)


def standing_rights(prefix: str = "") -> Iterator[Right]:
    """Yields the rights that no pipeline changes: on shared topics, on groups and transactional ids,
    and the registry's to make each pipeline's topics and grant the rights on them.
    """
    everything, all_alike = prefix or "*", bool(prefix)
    yield from topic_rights(SHARED, prefix)
    yield Right(GRANTER, "ALTER", "CLUSTER", "kafka-cluster")
    for operation in _MAKING:
        yield Right(GRANTER, operation, "TOPIC", everything, all_alike)
    for service in SERVICES:
        own = prefix + group(service)
        yield Right(service, "DESCRIBE", "TOPIC", everything, all_alike)
        yield Right(service, "DESCRIBE_CONFIGS", "TOPIC", everything, all_alike)
        yield Right(service, "DESCRIBE", "GROUP", everything, all_alike)
        yield Right(service, "READ", "GROUP", own, prefixed=True)
        yield Right(service, "WRITE", "TRANSACTIONAL_ID", own, prefixed=True)
        yield from _each([USERS], "READ", "GROUP", own, prefixed=True, denied=True)
        yield from _each([USERS], "DELETE", "GROUP", own, prefixed=True, denied=True)
        yield from _each([USERS], "WRITE", "TRANSACTIONAL_ID", own, prefixed=True, denied=True)
    yield from _each([USERS], "DESCRIBE", "TOPIC", everything, all_alike)
    yield from _each([USERS], "READ", "GROUP", "*")
    yield from _each([USERS], "WRITE", "TRANSACTIONAL_ID", "*")


def _each(
    names: Iterable[str],
    operation: Operation,
    resource: Resource,
    name: str,
    prefixed: bool = False,
    denied: bool = False,
) -> Iterator[Right]:
    """Yields a right for each of these services; `users` are all who publish."""
    for one in names:
        for user in PUBLISHERS if one == USERS else (one,):
            yield Right(user, operation, resource, name, prefixed, denied)
