"""Deletion of topics: those that are there, and none that is made anew under the name of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from penstock.runtime.kafka import admin
from penstock.runtime.settings import KafkaSettings


class Broker:
    """As an administrator sees it. Somebody makes `anew` under a name as soon as that is free."""

    def __init__(self, **topics: int) -> None:
        self.topics = {name.replace("_", "."): number for name, number in topics.items()}
        self.anew: dict[str, int] = {}
        self.asked: list[str] = []

    def describe_topics(self) -> list[dict[str, Any]]:
        return [{"name": name, "topic_id": number} for name, number in self.topics.items()]

    def delete_topics(self, names: list[str]) -> None:
        self.asked += names
        self.topics = {name: number for name, number in self.topics.items() if name not in names} | self.anew


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    made = Broker(x_penstock_loans_a=1, x_penstock_loans_a_penstock_ingest_dlq=2, x_penstock_rents_a=3)

    @contextmanager
    def client(*_: Any, **__: Any) -> Iterator[Broker]:
        yield made

    monkeypatch.setattr(admin, "admin_client", client)
    return made


def test_a_topic_goes_with_its_dead_letters_and_no_other(broker: Broker) -> None:
    gone = {"x.penstock.loans.a", "x.penstock.loans.a.penstock.ingest.dlq"}
    assert admin.remove_topics(KafkaSettings(topic_prefix="x.penstock."), ["loans.a"]) == gone
    assert broker.topics == {"x.penstock.rents.a": 3}
    assert admin.remove_topics(KafkaSettings(topic_prefix="x.penstock."), ["loans.a"]) == set()


def test_one_of_its_name_that_is_made_meanwhile_stays(broker: Broker) -> None:
    broker.anew = {"x.penstock.loans.a": 4}
    admin.remove_topics(KafkaSettings(topic_prefix="x.penstock."), ["loans.a"])
    assert broker.topics == {"x.penstock.rents.a": 3, "x.penstock.loans.a": 4}
    assert len(broker.asked) == 2, "each once"
