"""What every online store promises, each adapter with its real store."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lending import EPOCH, append, credit_risk, record
from online_worlds import OnlineWorld

from penstock.contracts.dataplane import EARLIEST, LATEST, MAX_IDENTIFIER, MAX_NUMBER
from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Pipeline
from penstock.feature_store.v1 import feature_store_pb2 as pb
from penstock.runtime.kafka.messages import Partition
from penstock.testing.wait import until
from penstock_feature_store import names
from penstock_feature_store.lake.batches import Received, source_schema, table_of
from penstock_feature_store.lake.lake import SourceLake
from penstock_feature_store.online import packed
from penstock_feature_store.online.definitions import KEY_VERSION
from penstock_feature_store.online.feast_import import Value, _redis_key, serialize_entity_key
from penstock_feature_store.online.features import features_of, from_columns
from penstock_feature_store.online.packed import FOUND, NOT_FOUND, Packing
from penstock_feature_store.online.rows import Origin
from penstock_feature_store.online.stores import OnlineStore, key_of, serialized_key
from penstock_feature_store.online.writer import step
from penstock_feature_store.pipelines import Gate, Held, Owned

PIPELINE = credit_risk()
FIELDS = ["income", "purpose", "Married", "country_y"]
_names = itertools.count()


@pytest.fixture(scope="module")
def store(online_world: OnlineWorld) -> Iterator[OnlineStore]:
    with online_world.opened(PIPELINE) as store:
        yield store


def write(
    store: OnlineStore, *records: Received, source: str = "applications", pipeline: Pipeline = PIPELINE
) -> int:
    return store.write(source, table_of(records, source_schema(pipeline.sources[source])))


def incomes(store: OnlineStore, *entities: str) -> list[Any]:
    """None: no row, or no value in it."""
    return [row.values.get("income") for row in store.read("applications", entities, ["income"], EPOCH)]


def changed(change: Callable[[dict[str, Any]], object], name: str = "credit-risk") -> Pipeline:
    spec = credit_risk(pipeline=name).model_dump(mode="json", by_alias=True)
    change(spec)
    return Pipeline.model_validate(spec)


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
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_the_newest_wins_however_they_come(
    store: OnlineStore, events: list[tuple[str, int, dict[str, object]]], order: object, cuts: list[int]
) -> None:
    """Late, repeated, in any batches. Milliseconds apart: Feast's own times are whole seconds on SQLite."""
    world = next(_names)
    records = [
        record(offset, f"{world}-{who}", time / 10_000, values)
        for offset, (who, time, values) in enumerate(events)
    ]
    order.shuffle(records)  # type: ignore[attr-defined]
    bounds = sorted({0, len(records), *(cut % len(records) for cut in cuts)})
    for first, last in [*itertools.pairwise(bounds), (0, 1)]:
        write(store, *records[first:last])
    asked = [f"{world}-{who}" for who in "abcd"]
    found = store.read("applications", asked, FIELDS, EPOCH + timedelta(minutes=1))
    for who, row in zip("abcd", found, strict=True):
        of_entity = [
            (time, offset, values) for offset, (entity, time, values) in enumerate(events) if entity == who
        ]
        if not of_entity:
            assert row.status == "not_found"
            continue
        _, offset, values = max(of_entity, key=lambda event: event[:2])
        assert row.origin is not None
        assert (row.status, row.origin.offset, row.origin.event_id) == ("found", offset, f"ev-{offset}")
        assert row.values == values


def test_of_one_moment_the_higher_offset_wins(store: OnlineStore) -> None:
    assert write(store, record(7, "tie", 1, {"income": 7.0})) == 1
    assert write(store, record(8, "tie", 1, {"income": 8.0})) == 1
    assert write(store, record(6, "tie", 1, {"income": 6.0})) == 0
    assert store.read("applications", ["tie"], ["income"], EPOCH)[0].values == {"income": 8.0}


@pytest.mark.parametrize("time", [EARLIEST, LATEST])
@pytest.mark.parametrize("number", [MAX_NUMBER, -MAX_NUMBER, 5e-324, -0.0])
def test_what_ingest_accepts_at_most_is_held(store: OnlineStore, time: datetime, number: float) -> None:
    who = f"{time.year} {number} " + "ж" * (MAX_IDENTIFIER - 30)
    minutes = (time - EPOCH) / timedelta(minutes=1)
    write(store, record(0, who, minutes, {"income": number, "purpose": "a\u2028\x7f"}, event_id="ж" * 1000))
    (row,) = store.read("applications", [who], ["income", "purpose"], time)
    assert row.origin is not None
    assert (row.origin.time, row.origin.event_id) == (time, "ж" * 1000)
    assert str(row.values) == str({"income": number, "purpose": "a\u2028\x7f"})


def status_of(row: bytes | None) -> pb.EntityFeatures.Status.ValueType | None:
    return None if row is None else pb.EntityFeatures.FromString(row).status


async def answered(*asked: Any) -> pb.GetOnlineFeaturesResponse:
    return pb.GetOnlineFeaturesResponse.FromString(await features_of(*asked))


async def test_a_packed_row_says_what_its_columns_do(online_world: OnlineWorld) -> None:
    """Whichever fields are asked for, of one source or two, found or expired or not there."""
    pipeline = changed(
        lambda spec: spec["features"].update(defaulted={"from": "outcomes.defaulted"}), "two-sources"
    )
    every = [f"applications.{field}" for field in FIELDS]
    of_two = [every[0], "outcomes.defaulted", every[1]]
    with online_world.opened(pipeline) as store:
        held = Held(pipeline, 1, store)
        write(store, record(1, "both", 1, {"income": -0.0, "purpose": "ж", "Married": False}))
        write(store, record(1, "both", 2.5, {"defaulted": True}), source="outcomes")
        write(store, record(0, "both", 0, {"income": 7.0}), record(2, "late", 60_000, {"country_y": "nl"}))
        write(store, record(3, "late", 0, {"defaulted": None}), source="outcomes")
        for fields in (every, every[1:3], [*every[::-1], *every], of_two, ["outcomes.defaulted"]):
            for age in (timedelta(minutes=3), timedelta(days=30, minutes=2), timedelta(days=41)):
                asked = held, ["both", "nobody", "late", "both"], fields, EPOCH + age
                assert None not in held.selection(fields).read(store, asked[1], asked[3])
                assert list((await answered(*asked)).entities) == from_columns(*asked)


async def test_features_are_read_without_the_columns_and_without_waiting_for_a_writer(
    store: OnlineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"packed-{number}" for number in range(300)]
    write(store, *(record(number, name, 0, {"income": float(number)}) for number, name in enumerate(names)))

    def read(*_: object) -> None:
        raise AssertionError("the columns were read")

    with monkeypatch.context() as patched, store._turn():
        patched.setattr(store, "read", read)
        for count in (1, 100, 300):
            held = Held(PIPELINE, 1, store)
            found = (await answered(held, names[:count], ["applications.income"], EPOCH)).entities
            assert [one.entity for one in found] == names[:count]
            assert [one.values[0].number for one in found] == list(range(count))


@given(st.sampled_from(["a", "ж" * 70, "x" * 500]), st.integers(0, 20_000))
def test_a_packed_row_of_any_length_is_read_without_feast_s_message(event_id: str, length: int) -> None:
    """To read that takes longer than all the rest."""
    packing = Packing("people", ["kind"])
    origin = Origin(5_000_000, 7, 1, event_id)
    written = packed.kept(origin)
    kept_as = Value(bytes_val=packing.pack(origin, {"kind": "k" * length})).SerializeToString()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(packed, "Value", None)
        said, torn = packing.unpack([(written, kept_as), (written, b"")], 0)
        assert torn is None
    row = pb.EntityFeatures.FromString(said or b"")
    assert row.status == FOUND
    assert row.values[0].text == "k" * length


def test_how_the_same_fields_are_answered_is_found_out_once(store: OnlineStore) -> None:
    held = Held(PIPELINE, 1, store)
    known = held.selection(["applications.income"])
    assert held.selection(["applications.income"]) is known
    assert held.selection(["applications.purpose"]) is not known
    for number in range(3 * len(held.references)):  # what anybody may ask for fills no memory
        held.selection(["applications.income"] * number)
    assert len(held._selections) <= len(held.references) + 2
    with pytest.raises(Invalid, match="no field"):
        held.selection(["applications.incom"])


async def test_names_of_any_length_are_answered(store: OnlineStore) -> None:
    names = ["n" * length for length in (1, 126, 127, 128, 500)]
    write(store, *(record(at, name, 0, {"income": float(at)}) for at, name in enumerate(names)))
    asked = Held(PIPELINE, 1, store), names, [f"applications.{field}" for field in FIELDS], EPOCH
    assert list((await answered(*asked)).entities) == from_columns(*asked)


async def test_where_the_packed_row_is_not_the_columns_they_tell(online_world: OnlineWorld) -> None:
    """A row that an older version wrote over a packed one; a pipeline that asks for other fields."""
    before = changed(lambda spec: None, "repacked")
    day = timedelta(days=1)
    with online_world.opened(before) as store:
        write(store, record(0, "a", 0, {"income": 1.0}), record(0, "b", 0, {"income": 2.0}))
        values = {"income": Value(double_val=3.0), names.ORIGIN: Value(string_val=f"{10**15} 9 0 ev-9")}
        row = key_of("a"), values, EPOCH, EPOCH
        store._provider.online_write_batch(store._config, store._views["applications"], [row], None)
        old, new = store.features("applications", ["a", "b"], EPOCH)
        assert old is None
        assert new is not None
        columns = from_columns(Held(before, 1, store), ["a"], ["applications.income"], EPOCH)
        assert columns[0].events == {"applications": "ev-9"}
    fewer = changed(
        lambda spec: spec.update(features={"purpose": {"from": "applications.purpose"}}), "repacked"
    )
    with online_world.opened(fewer) as store:
        assert store.features("applications", ["b"], EPOCH + day) == [None]
        found = await answered(Held(fewer, 2, store), ["b"], ["applications.income"], EPOCH + day)
        assert [value.number for value in found.entities[0].values] == [2.0]


@given(st.text(max_size=20))
def test_a_key_is_feast_s(entity: str) -> None:
    whole = serialize_entity_key(key_of(entity), entity_key_serialization_version=KEY_VERSION)
    assert serialized_key(entity) == whole
    redis = _redis_key("loans", key_of(entity), entity_key_serialization_version=KEY_VERSION)
    assert serialized_key(entity) + b"loans" == redis


def test_missing_is_missing_and_nobody_is_not_there(store: OnlineStore) -> None:
    write(store, record(0, "bare", 0, {}))
    bare, nobody = store.read("applications", ["bare", "nobody"], FIELDS, EPOCH)
    assert (bare.status, bare.values) == ("found", dict.fromkeys(FIELDS))
    assert (nobody.status, nobody.values) == ("not_found", {})
    assert store.read("applications", [], FIELDS, EPOCH) == []


def test_a_row_of_one_source_is_none_of_another(store: OnlineStore) -> None:
    write(store, record(0, "applied", 0, {"income": 1.0}))
    assert store.read("outcomes", ["applied"], ["defaulted"], EPOCH)[0].status == "not_found"
    write(store, record(0, "applied", 9, {"defaulted": True}), source="outcomes")
    assert incomes(store, "applied") == [1.0]


def test_more_rows_than_go_in_one_write(store: OnlineStore) -> None:
    names = [f"many-{number}" for number in range(1_234)]
    assert write(
        store, *(record(number, name, 0, {"income": float(number)}) for number, name in enumerate(names))
    ) == len(names)
    assert incomes(store, *names) == [float(number) for number in range(len(names))]


def test_a_field_that_the_view_does_not_have_yet_is_kept_for_it(online_world: OnlineWorld) -> None:
    """Ingest may be told of a change first."""
    before = changed(lambda spec: None, "early")
    after = changed(
        lambda spec: spec["sources"]["applications"]["fields"].update(savings={"type": "number"}), "early"
    )
    with online_world.opened(before) as store:
        write(store, record(0, "a", 0, {"income": 1.0, "savings": 5.0}))
    assert online_world.apply(after)
    with online_world.opened(after) as store:
        row = store.read("applications", ["a"], ["savings", "income", "purpose"], EPOCH)[0]
    assert row.values == {"savings": 5.0, "income": 1.0, "purpose": None}


def test_a_row_that_the_store_cannot_hold_is_left_out_and_the_others_are_there(
    online_world: OnlineWorld, tmp_path: Path
) -> None:
    pipeline = changed(lambda spec: None, "odd")
    lake, left_out = SourceLake(tmp_path / "records"), list[int]()
    rows = [record(offset, f"odd-{offset}", 0, {"income": float(offset)}) for offset in range(40)]
    rows[7] = rows[7]._replace(value=re.sub(rb'"time":"\d{4}', b'"time":"0002', rows[7].value))
    append(lake, pipeline, "applications", rows)

    def reject(partition: Partition, unfit: Sequence[tuple[int, Exception]]) -> None:
        assert partition == ("odd.applications.records.v1", 0)
        left_out.extend(offset for offset, _ in unfit)

    with online_world.opened(pipeline) as store:
        owned = Owned(pipeline, 1, store, {"applications": lake}, store, Gate())
        while step(owned, "applications", reject):
            pass
        found = incomes(store, *(f"odd-{offset}" for offset in range(40) if offset != 7))
    assert found == [float(offset) for offset in range(40) if offset != 7]
    assert set(left_out) <= {7}, "SQLite cannot hold it, Redis may"


def test_a_row_expires(store: OnlineStore) -> None:
    write(store, record(0, "old", 0, {"income": 1.0}))
    ages = {"found": timedelta(days=30), "expired": timedelta(days=30, microseconds=1)}
    for status, age in ages.items():
        assert store.read("applications", ["old"], ["income"], EPOCH + age)[0].status == status


def test_an_erased_row_leaves_no_byte(online_world: OnlineWorld, store: OnlineStore) -> None:
    for number in range(3):
        write(
            store,
            record(number, "Rosalind-1920", number, {"income": 1.0}),
            record(number, "Francis-1916", number, {"income": 2.0}),
        )
    write(store, record(0, "Rosalind-1920", 0, {"defaulted": True}), source="outcomes")
    assert online_world.holds("Rosalind-1920")
    assert store.erase(["applications", "outcomes", "nothing"], "Rosalind-1920")
    assert not store.erase(["applications", "outcomes"], "Rosalind-1920")
    until(lambda: not online_world.holds("Rosalind-1920"), what="the store's files are written anew")
    assert incomes(store, "Rosalind-1920", "Francis-1916") == [None, 2.0]
    rows = store.features("applications", ["Rosalind-1920", "Francis-1916"], EPOCH)
    assert [status_of(row) for row in rows] == [NOT_FOUND, FOUND]


def test_an_erasure_takes_what_no_pipeline_declares_any_more(online_world: OnlineWorld) -> None:
    before = changed(
        lambda spec: spec["sources"]["applications"]["fields"].update(diary={"type": "text"}), "diaries"
    )
    with online_world.opened(before) as store:
        write(store, record(0, "Ada-1815", 0, {"diary": "poetical-science"}), pipeline=before)
    assert online_world.holds("poetical-science")
    with online_world.opened(changed(lambda spec: None, "diaries")) as store:
        assert store.erase(["applications", "outcomes"], "Ada-1815")
    until(
        lambda: not online_world.holds("poetical-science"),
        what="the store's files are written anew",
    )


def test_another_entity_of_the_same_name_stays(online_world: OnlineWorld) -> None:
    """Applicant 42 leaves, shop 42 does not."""

    def with_shops(spec: dict[str, Any]) -> None:
        spec["entities"]["shop"] = {"key": "shop_id"}
        spec["sources"]["sales"] = {
            "entity": "shop",
            "id": "i",
            "timestamp": "t",
            "fields": {"turnover": {"type": "number"}},
        }

    pipeline = changed(with_shops, "shops")
    with online_world.opened(pipeline) as store:
        write(store, record(0, "42", 0, {"income": 1.0}))
        write(store, record(0, "42", 0, {"turnover": 9.0}), source="sales", pipeline=pipeline)
        assert store.erase(["applications", "outcomes"], "42")
        assert incomes(store, "42") == [None]
        assert store.read("sales", ["42"], ["turnover"], EPOCH)[0].values == {"turnover": 9.0}


def test_values_leave_by_when_they_were_published(store: OnlineStore) -> None:
    for number, published in enumerate((EPOCH, EPOCH + timedelta(days=3))):
        row = record(number, f"published-{number}", 0, {"defaulted": True})._replace(
            timestamp_ms=round(published.timestamp() * 1000)
        )
        write(store, row, source="outcomes")
    write(store, record(0, "published-0", 0, {"income": 1.0}))
    assert store.expire("outcomes", EPOCH + timedelta(days=2))
    assert not store.expire("outcomes", EPOCH + timedelta(days=2))
    found = store.read("outcomes", ["published-0", "published-1"], ["defaulted"], EPOCH)
    assert [row.status for row in found] == ["not_found", "found"]
    (gone,) = store.features("outcomes", ["published-0"], EPOCH)
    assert status_of(gone) == NOT_FOUND
    assert incomes(store, "published-0") == [1.0]


def test_pipelines_do_not_mix(online_world: OnlineWorld) -> None:
    """Also where one's name ends in the other's."""
    short, long = changed(lambda spec: None, "lend"), changed(lambda spec: None, "good-lend")
    with online_world.opened(short) as one, online_world.opened(long) as other:
        for store, income in ((one, 1.0), (other, 2.0)):
            write(store, record(0, "42", 0, {"income": income}), record(1, "43", 0, {"income": income}))
            store.save("applications", {0: int(income)})
        assert incomes(one, "42") == [1.0]
        assert incomes(other, "42") == [2.0]
        assert one.erase(["applications", "outcomes"], "42")
        assert one.expire("applications", EPOCH + timedelta(days=1))
        assert incomes(one, "42", "43") == [None, None]
        assert incomes(other, "42", "43") == [2.0, 2.0]
        assert (one.positions("applications"), other.positions("applications")) == ({0: 1}, {0: 2})

    def without_outcomes(spec: dict[str, Any]) -> None:
        del spec["sources"]["outcomes"]
        spec["targets"] = {"high": {"from": "applications.Married", "type": "binary"}}

    with online_world.opened(long) as other:
        write(other, record(0, "43", 0, {"defaulted": True}), source="outcomes")
    assert online_world.apply(changed(without_outcomes, "lend"))
    with online_world.opened(long) as other:
        assert other.read("outcomes", ["43"], ["defaulted"], EPOCH)[0].status == "found"


def test_a_source_that_comes_back_is_whole(online_world: OnlineWorld) -> None:
    """Its rows are there, or its position says that they are not."""

    def without_outcomes(spec: dict[str, Any]) -> None:
        del spec["sources"]["outcomes"]
        spec["targets"] = {"high": {"from": "applications.Married", "type": "binary"}}

    whole = changed(lambda spec: None, "back")
    with online_world.opened(whole) as store:
        write(store, record(0, "a", 0, {"defaulted": True}), source="outcomes")
        store.save("outcomes", {0: 1})
        store.save("applications", {0: 3})
    assert online_world.apply(changed(without_outcomes, "back"))
    with online_world.opened(whole) as store:
        there = store.read("outcomes", ["a"], ["defaulted"], EPOCH)[0].status == "found"
        assert store.positions("outcomes") == ({0: 1} if there else {})
        assert store.positions("applications") == {0: 3}


def test_positions_go_with_the_rows(store: OnlineStore) -> None:
    assert store.positions("nothing") == {}
    store.save("outcomes", {0: 5, 1: 7})
    store.save("outcomes", {1: 8})
    assert store.positions("outcomes") == {0: 5, 1: 8}


def test_a_store_that_lost_its_rows_has_no_positions(online_world: OnlineWorld) -> None:
    pipeline = changed(lambda spec: None, "lost")
    with online_world.opened(pipeline) as store:
        write(store, record(0, "a", 0, {"income": 1.0}))
        store.save("applications", {0: 5})
    online_world.lose()
    with online_world.opened(pipeline) as store:
        assert store.positions("applications") == {}
        assert incomes(store, "a") == [None]
        assert write(store, record(0, "a", 0, {"income": 1.0})) == 1
        assert incomes(store, "a") == [1.0]


def test_feast_itself_opens_the_repository(online_world: OnlineWorld) -> None:
    from feast import FeatureStore

    assert online_world.apply(changed(lambda spec: None, "opened"))
    assert not online_world.apply(changed(lambda spec: None, "opened"))
    store = FeatureStore(repo_path=str(online_world.folder / "feast" / "opened"))
    assert {view.name for view in store.list_feature_views()} == {"applications", "outcomes"}
    assert {entity.name for entity in store.list_entities()} >= {"applicant"}


@given(st.integers(), st.integers(), st.integers(), st.text())
def test_an_origin_is_read_as_it_was_written(
    time_us: int, offset: int, partition: int, event_id: str
) -> None:
    origin = Origin(time_us, offset, partition, event_id)
    assert Origin.read(str(origin)) == origin
