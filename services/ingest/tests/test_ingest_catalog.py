"""What a replica answers about a source that it does not know."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from penstock.contracts.errors import NotFound, Unavailable
from penstock.contracts.events import encode
from penstock.contracts.pipeline import Pipeline
from penstock.packages.keys import Keys
from penstock.runtime.cloud_events import Received
from penstock.runtime.settings import KafkaSettings
from penstock.testing import packages
from penstock.testing.history import left_out
from penstock_ingest import catalog as of_sources
from penstock_ingest.catalog import Catalog, ensure_source_topics
from penstock_ingest.history import Restored
from penstock_ingest.intake import Intake
from penstock_ingest.seen import SeenIds


class NothingBefore:
    def restore(self, partition: int, *, records: int, window_ms: int, capacity: int, now: int) -> Restored:
        return Restored(SeenIds(window_ms, capacity), {})


def loans() -> Pipeline:
    return Pipeline.model_validate(
        {
            "version": 1,
            "pipeline": "loans",
            "entities": {"applicant": {"key": "who"}},
            "sources": {
                "applications": {
                    "entity": "applicant",
                    "id": "id",
                    "timestamp": "at",
                    "fields": {"granted": {"type": "boolean"}},
                }
            },
            "targets": {"granted": {"from": "applications.granted", "type": "binary"}},
        }
    )


def make(pipeline: Pipeline, source: str) -> Intake:
    return Intake(pipeline, source, restores=NothingBefore(), clock=lambda: 0, capacity=1)


async def there(_pipeline: Pipeline, _deleted: Callable[[], bool]) -> None:
    """Its topics are."""


def applied(pipeline: Pipeline, keys: Keys) -> Received:
    event = packages.applied(keys, "", spec=pipeline.model_dump(mode="json", by_alias=True))
    return Received(event.topic, 0, 0, "e", event.ce_type(), {}, encode(event))


async def test_a_source_does_not_exist_only_once_all_pipelines_are_known(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    keys.ensure()
    catalog = Catalog(make, keys, prepare=there, added=lambda _: None, removed=lambda _: None)
    with pytest.raises(Unavailable):
        catalog.find("loans", "applications")
    await catalog.applied.router.replay(applied(loans(), keys), left_out)
    assert catalog.find("loans", "applications").source == "applications"
    with pytest.raises(Unavailable):
        catalog.find("cards", "applications")
    catalog.applied.complete = True
    with pytest.raises(NotFound, match="no pipeline `cards`"):
        catalog.find("cards", "applications")
    with pytest.raises(NotFound, match="has no source `outcomes`"):
        catalog.find("loans", "outcomes")


async def test_topics_of_a_deleted_pipeline_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are gone, and ingest may make none in a Kafka that says who may do what."""
    tries, asked = list[int](), threading.Event()

    def refused(*_: object) -> None:
        tries.append(1)
        asked.set()
        raise Unavailable("TopicAuthorizationFailedError")

    monkeypatch.setattr(of_sources, "ensure_topics", refused)
    monkeypatch.setattr(of_sources, "RETRY_S", 0.01)
    keys, added = Keys(tmp_path / "keys"), list[Intake]()
    keys.ensure()
    prepare = partial(ensure_source_topics, KafkaSettings())
    catalog = Catalog(make, keys, prepare=prepare, added=added.append, removed=lambda _: None)
    router, deleted = catalog.applied.router, packages.deleted(keys)
    following = asyncio.create_task(router.replay(applied(loans(), keys), left_out))
    assert await asyncio.to_thread(asked.wait, 60)
    end = Received(deleted.topic, 0, 1, "d", deleted.ce_type(), {}, encode(deleted))
    router.read(end)
    await following
    await router.replay(end, left_out)
    before = len(tries)
    await router.replay(applied(loans(), keys), left_out)
    assert (added, len(tries)) == ([], before), "nor asked for again"
    catalog.applied.complete = True
    with pytest.raises(NotFound, match="no pipeline `loans`"):
        catalog.find("loans", "applications")
