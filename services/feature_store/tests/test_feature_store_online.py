"""The online store against a model of it, whatever the order in which events come."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lending import EPOCH, credit_risk, record

from penstock.contracts.pipeline import Pipeline
from penstock_feature_store import online
from penstock_feature_store.batches import source_schema, table_of
from penstock_feature_store.online import OnlineStore, Origin, Positions
from penstock_feature_store.repository import Repository

PIPELINE = credit_risk()
FIELDS = ["income", "purpose", "Married", "country_y"]
_names = itertools.count()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    folder = tmp_path_factory.mktemp("online")
    repository = Repository(folder / "feast", folder / "lake")
    assert repository.apply(PIPELINE)
    assert not repository.apply(PIPELINE)
    return repository


@pytest.fixture(scope="module")
def store(repository: Repository) -> Iterator[OnlineStore]:
    store = OnlineStore(repository, PIPELINE)
    yield store
    store.close()


VALUES = st.fixed_dictionaries(
    {
        "income": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "purpose": st.none() | st.sampled_from(["home", ""]),
        "Married": st.none() | st.booleans(),
        "country_y": st.none() | st.text(max_size=5),
    }
)
EVENTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), VALUES), min_size=1, max_size=15)


@given(events=EVENTS, order=st.randoms(use_true_random=False), cuts=st.lists(st.integers(0, 15), max_size=3))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_the_newest_wins_however_they_come(
    store: OnlineStore, events: list[tuple[str, int, dict[str, object]]], order: object, cuts: list[int]
) -> None:
    """Late, repeated, in any batches. Milliseconds apart: Feast's own times are whole seconds."""
    world = next(_names)
    records = [record(offset, f"{world}-{who}", time / 10_000, values) for offset, (who, time, values) in enumerate(events)]
    order.shuffle(records)  # type: ignore[attr-defined]
    bounds = sorted({0, len(records), *(cut % len(records) for cut in cuts)})
    for first, last in [*itertools.pairwise(bounds), (0, 1)]:
        store.write("applications", table_of(records[first:last], source_schema(PIPELINE.sources["applications"])))
    asked = [f"{world}-{who}" for who in "abcd"]
    found = store.read("applications", asked, FIELDS, EPOCH + timedelta(minutes=1))
    for who, row in zip("abcd", found, strict=True):
        of_entity = [(time, offset, values) for offset, (entity, time, values) in enumerate(events) if entity == who]
        if not of_entity:
            assert row.status == "not_found"
            continue
        _, offset, values = max(of_entity, key=lambda event: event[:2])
        assert row.origin is not None
        assert (row.status, row.origin.offset, row.origin.event_id) == ("found", offset, f"ev-{offset}")
        assert row.values == values


def test_a_field_that_the_view_does_not_have_yet_is_kept_for_it(tmp_path: Path) -> None:
    """Ingest may be told of a change first."""
    repository = Repository(tmp_path / "feast", tmp_path / "lake")
    repository.apply(PIPELINE)
    store = OnlineStore(repository, PIPELINE)
    early = record(0, "a", 0, {"income": 1.0, "savings": 5.0})
    store.write("applications", table_of([early], source_schema(PIPELINE.sources["applications"])))
    store.close()
    spec = PIPELINE.model_dump(mode="json", by_alias=True)
    spec["sources"]["applications"]["fields"]["savings"] = {"type": "number"}
    changed = Pipeline.model_validate(spec)
    assert repository.apply(changed)
    store = OnlineStore(repository, changed)
    row = store.read("applications", ["a"], ["savings", "income", "purpose"], EPOCH)[0]
    assert row.values == {"savings": 5.0, "income": 1.0, "purpose": None}
    store.close()


def test_a_row_expires(store: OnlineStore) -> None:
    store.write("applications", table_of([record(0, "old", 0, {"income": 1.0})], source_schema(PIPELINE.sources["applications"])))
    ages = {"found": timedelta(days=30), "expired": timedelta(days=30, microseconds=1)}
    for status, age in ages.items():
        assert store.read("applications", ["old"], ["income"], EPOCH + age)[0].status == status


def test_an_erased_row_leaves_no_byte(repository: Repository, store: OnlineStore) -> None:
    schema = source_schema(PIPELINE.sources["applications"])
    for number in range(3):
        store.write("applications", table_of([record(number, "Rosalind-1920", number, {"income": 1.0})], schema))
    assert any(b"Rosalind-1920" in path.read_bytes() for path in repository.folder.glob("online.db*"))
    assert online.erase(repository.online, ["credit_risk_applications", "credit_risk_nothing"], "Rosalind-1920")
    assert not online.erase(repository.online, ["credit_risk_applications"], "Rosalind-1920")
    assert not any(b"Rosalind-1920" in path.read_bytes() for path in repository.folder.glob("online.db*"))


def test_values_leave_by_when_they_were_published(repository: Repository, store: OnlineStore) -> None:
    schema = source_schema(PIPELINE.sources["outcomes"])
    for number, published in enumerate((EPOCH, EPOCH + timedelta(days=3))):
        row = record(number, f"published-{number}", 0, {"defaulted": True})._replace(timestamp_ms=round(published.timestamp() * 1000))
        store.write("outcomes", table_of([row], schema))
    assert online.expire(repository.online, ["credit_risk_outcomes"], EPOCH + timedelta(days=2))
    found = store.read("outcomes", ["published-0", "published-1"], ["defaulted"], EPOCH)
    assert [row.status for row in found] == ["not_found", "found"]


def test_positions_go_with_the_rows(repository: Repository) -> None:
    Positions(repository).save("outcomes", {0: 5, 1: 7})
    assert Positions(repository).read("outcomes") == {0: 5, 1: 7}


def test_feast_itself_opens_the_repository(repository: Repository) -> None:
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(repository.folder))
    assert {view.name for view in store.list_feature_views()} == {"applications", "outcomes"}
    assert {entity.name for entity in store.list_entities()} >= {"applicant"}


def test_a_broken_store_is_made_anew(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "feast", tmp_path / "lake")
    repository.apply(PIPELINE)
    Positions(repository).save("outcomes", {0: 5})
    repository.online.write_bytes(b"no database" * 1000)
    again = Repository(tmp_path / "feast", tmp_path / "lake")
    assert again.apply(PIPELINE)
    assert Positions(again).read("outcomes") == {}


@given(st.integers(), st.integers(), st.integers(), st.text())
def test_an_origin_is_read_as_it_was_written(time_us: int, offset: int, partition: int, event_id: str) -> None:
    origin = Origin(time_us, offset, partition, event_id)
    assert Origin.read(str(origin)) == origin
