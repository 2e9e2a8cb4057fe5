"""Deletion of topics: those that are there, and none that is made anew under the name of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest

from penstock.runtime.kafka import admin
from penstock.runtime.settings import KafkaSettings


class Broker:
    """As an administrator sees it. Somebody makes `anew` under a name as soon as that is free."""

    def __init__(self, **topics: int) -> None:
        self.topics = {name.replace("_", "."): UUID(int=number) for name, number in topics.items()}
        self.anew: dict[str, UUID] = {}
        self.asked: list[UUID] = []

    def describe_topics(self) -> list[dict[str, Any]]:
        return [{"name": name, "topic_id": number} for name, number in self.topics.items()]

    def delete_topics(self, numbers: list[UUID]) -> None:
        self.asked += numbers
        left = {name: number for name, number in self.topics.items() if number not in numbers}
        self.topics = left | self.anew


KAFKA = KafkaSettings(topic_prefix="x.penstock.")


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    made = Broker(x_penstock_loans_a=1, x_penstock_loans_a_penstock_ingest_dlq=2, x_penstock_rents_a=3)

    @contextmanager
    def client(*_: Any, **__: Any) -> Iterator[Broker]:
        yield made

    monkeypatch.setattr(admin, "admin_client", client)
    return made


def test_a_topic_goes_with_its_dead_letters_and_no_other(broker: Broker) -> None:
    made = admin.topics_made(KAFKA, ["loans.a"])
    assert {name for name, _ in made} == {
        "x.penstock.loans.a",
        "x.penstock.loans.a.penstock.ingest.dlq",
    }
    for _ in range(2):
        admin.remove_topics(KAFKA, made)
    assert broker.topics == {"x.penstock.rents.a": UUID(int=3)}
    assert len(broker.asked) == 2, "each once"


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_one_that_was_made_anew_under_its_name_stays(broker: Broker, when: str) -> None:
    made, anew = admin.topics_made(KAFKA, ["loans.a"]), {"x.penstock.loans.a": UUID(int=4)}
    broker.anew = anew
    if when == "before":
        broker.delete_topics([UUID(int=1)])
    admin.remove_topics(KAFKA, made)
    assert broker.topics == {"x.penstock.rents.a": UUID(int=3), **anew}
