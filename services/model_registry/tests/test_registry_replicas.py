"""Two replicas, one database, one Kafka: what one makes the other does not remove."""

from __future__ import annotations

import asyncio
import threading
import uuid
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from penstock.contracts.load import read
from penstock.contracts.topics import SHARED, pipeline_topics
from penstock.runtime.effect import Effect
from penstock.runtime.kafka.admin import MadeTopic, ensure_topics, remove_topics, topics_made
from penstock.runtime.settings import KafkaSettings
from penstock.runtime.store import Store
from penstock.testing import lending
from penstock.testing.broker import Kafka
from penstock_model_registry import deletion, pipelines
from penstock_model_registry.deletion import Deletions
from penstock_model_registry.lease import TopicsLease
from penstock_model_registry.pipelines import Pipelines

if TYPE_CHECKING:
    from conftest import World

pytestmark = pytest.mark.kafka
PATIENCE_S = 60.0


class Watched(TopicsLease):
    """Says when it is another's."""

    def __init__(self, store: Store, replica: str) -> None:
        super().__init__(store, replica, partial(datetime.now, UTC))
        self.refused = threading.Event()

    def keep(self, effect: Effect) -> bool:
        taken = super().keep(effect)
        if not taken:
            self.refused.set()
        return taken


def replica(world: World, store: Store, kafka: KafkaSettings, lease: TopicsLease) -> Pipelines:
    clock = partial(datetime.now, UTC)
    deletions = Deletions(store, kafka, world.keys, world.artifacts, clock, lease)
    return Pipelines(store, kafka, world.keys, deletions, clock)


async def test_a_name_that_two_replicas_apply_anew_at_once_keeps_its_topics(
    world: World, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has made the topics and not said so yet, while the other removes what is left of the old
    pipeline.
    """
    settings = kafka.settings(f"{uuid.uuid4().hex[:8]}.")
    ensure_topics(settings, SHARED)
    store = Store.open(world.database)
    lease = Watched(store, "other")
    one = replica(world, world.store, settings, Watched(world.store, "one"))
    other = replica(world, store, settings, lease)
    await one.deletions.delete("loans", by="Ada")

    names = {topic.name for topic in pipeline_topics(read(lending.PIPELINE_TEXT))}
    made, said = threading.Event(), threading.Event()
    its: set[MadeTopic] = set()

    def make(*given: Any) -> None:
        ensure_topics(*given)
        if not made.is_set():
            its.update(topics_made(settings, names))
        made.set()
        assert lease.refused.wait(PATIENCE_S)

    def remove(*given: Any) -> None:
        if made.is_set():  # it is the other's
            lease.refused.set()
            said.wait(PATIENCE_S)
        remove_topics(*given)

    monkeypatch.setattr(pipelines, "ensure_topics", make)
    monkeypatch.setattr(deletion, "remove_topics", remove)
    anew = asyncio.create_task(one.apply(lending.PIPELINE_TEXT, "loans.yaml", by="Ada"))
    anew.add_done_callback(lambda _: said.set())
    assert await asyncio.to_thread(made.wait, PATIENCE_S)
    await other.apply(lending.PIPELINE_TEXT + "# Bob's\n", "loans.yaml", by="Bob")
    assert (await anew).changed

    assert {name for name, _ in its} == {settings.topic(name) for name in names}
    assert topics_made(settings, names) == its, "and not others of the same names"
    store.close()
