"""Rights in Kafka follow the catalogue."""

from __future__ import annotations

import pytest

from penstock.contracts.rights import PUBLISHERS, Right, group, pipeline_rights, standing_rights
from penstock.contracts.services import SERVICES
from penstock.contracts.topics import CATALOGUE, Topic

RIGHTS = [*standing_rights(), *pipeline_rights(CATALOGUE)]


def users(operation: str, name: str) -> set[str]:
    return {
        right.user
        for right in RIGHTS
        if (right.operation, right.resource, right.name) == (operation, "TOPIC", name)
    }


@pytest.mark.parametrize("topic", CATALOGUE, ids=lambda topic: topic.name)
def test_who_writes_a_topic_is_its_producers(topic: Topic) -> None:
    assert users("WRITE", topic.name) == {
        user for name in topic.producers for user in (PUBLISHERS if name == "users" else [name])
    }


@pytest.mark.parametrize("topic", CATALOGUE, ids=lambda topic: topic.name)
def test_users_read_what_is_for_them(topic: Topic) -> None:
    assert bool(users("READ", topic.name) & {*PUBLISHERS}) == ("users" in topic.consumers)


@pytest.mark.parametrize("topic", CATALOGUE, ids=lambda topic: topic.name)
def test_each_service_that_reads_a_topic_may_put_aside_what_it_cannot_apply(topic: Topic) -> None:
    """The owner, too, who reads at its start what it said: without the right one odd message holds it up."""
    services = {user for user in users("READ", topic.name) if user in SERVICES}
    for service in services:
        assert users("WRITE", f"{topic.name}.{group(service)}") == {service}
        assert users("CREATE", f"{topic.name}.{group(service)}") == {service}
    assert topic.owner == "users" or topic.owner in services


def test_nobody_writes_more_than_one_topic_by_one_right() -> None:
    """But dead letters, whose names say which service's they are."""
    wide = [right for right in RIGHTS if right.operation == "WRITE" and right.resource == "TOPIC"]
    assert all(right.name.endswith(f".{group(right.user)}") for right in wide if right.prefixed)
    assert "*" not in {right.name for right in wide}


def test_no_service_has_the_name_of_another_at_its_beginning() -> None:
    assert not [(a, b) for a in SERVICES for b in SERVICES if a != b and group(b).startswith(group(a))]


def test_an_installation_s_rights_begin_with_its_prefix() -> None:
    free = {"*", "kafka-cluster"}  # groups of users' own, and the right to grant
    assert {right.name for right in standing_rights("mine.") if not right.name.startswith("mine.")} == free


def test_only_the_registry_grants() -> None:
    assert [right for right in RIGHTS if right.resource == "CLUSTER"] == [
        Right("model_registry", "ALTER", "CLUSTER", "kafka-cluster")
    ]
