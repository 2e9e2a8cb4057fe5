"""What a replica answers about a source that it does not know."""

from pathlib import Path

import pytest

from penstock.contracts.errors import NotFound, Unavailable
from penstock.contracts.events import encode
from penstock.contracts.pipeline import Pipeline
from penstock.packages.keys import Keys
from penstock.runtime.cloud_events import Received
from penstock.testing import packages
from penstock.testing.history import left_out
from penstock_ingest.catalog import Catalog
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


async def there(_pipeline: Pipeline) -> None:
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
