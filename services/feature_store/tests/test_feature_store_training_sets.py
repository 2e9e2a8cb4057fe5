"""Training sets: the join against one written by hand, what they are named, how they are split,
what they refuse.
"""

from __future__ import annotations

import itertools
import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from lending import EPOCH, append, credit_risk, record

from penstock.contracts.errors import Conflict, Invalid, PenstockError
from penstock.contracts.events import TrainingSet
from penstock.contracts.pipeline import Pipeline, SplitParts
from penstock_feature_store import names
from penstock_feature_store.lake.batches import Received
from penstock_feature_store.lake.lake import SourceLake
from penstock_feature_store.training.columns import columns_of
from penstock_feature_store.training.join import Order, build
from penstock_feature_store.training.snapshot import Snapshot, database, order_of
from penstock_feature_store.training.splits import PARTS, by_entity, by_time

CREATED = datetime(2026, 1, 1, tzinfo=UTC)
INCOME = {"income": {"from": "applications.income"}}
_orders = itertools.count()


def make(
    pipeline: Pipeline,
    folder: Path,
    sources: dict[str, list[Received]],
    *,
    files: int = 1,
    merge: bool = False,
) -> TrainingSet:
    job = folder / f"job{next(_orders)}"
    for source, records in sources.items():
        lake = SourceLake(job / "lake" / source)
        size = -(-len(records) // files)
        for start in range(0, len(records), size or 1):
            append(lake, pipeline, source, records[start : start + size])
        if merge:
            lake.merge()
    return build(
        Order(
            id=job.name,
            pipeline=pipeline,
            folder=job,
            artifacts=f"file://{folder}/artifacts",
            created_at=CREATED,
        )
    )


def rows_of(made: TrainingSet) -> list[dict[str, Any]]:
    parts = [
        pq.read_table(part.uri.removeprefix("file://")) for part in (made.train, made.validation, made.audit)
    ]
    rows: list[dict[str, Any]] = pa.concat_tables(parts).to_pylist()
    return rows


def population(count: int = 200, seed: int = 5) -> dict[str, list[Received]]:
    chance = random.Random(seed)
    applications = [
        record(
            number,
            f"a{number}",
            number,
            {
                "income": chance.gauss(10, 3),
                "purpose": chance.choice(["home", "car", None]),
                "Married": chance.random() < 0.5,
                "country_y": chance.choice(["nl", "de"]),
                "sex": chance.choice(["f", "m"]),
            },
        )
        for number in range(count)
    ]
    outcomes = [
        record(number, f"a{number}", number + 1000, {"defaulted": chance.random() < 0.4})
        for number in range(count)
    ]
    return {"applications": applications, "outcomes": outcomes}


# -- the join --------------------------------------------------------------------------------------

Events = list[tuple[str, int, int | None]]
"""Entity, half-day, value."""


def events(chance: random.Random, count: int) -> Events:
    """Few entities and moments, so that they meet."""
    return [
        (chance.choice("abcdef"), chance.randrange(12), chance.choice([None, *range(99)]))
        for _ in range(count)
    ]


def by_hand(features: Events, labels: Events, max_age: int) -> list[int | None]:
    """For each label the value of the entity's newest row, the last published among equals, at most
    `max_age` half-days old.
    """
    found: list[int | None] = []
    for entity, time, _ in labels:
        known = [
            (at, place, value)
            for place, (who, at, value) in enumerate(features)
            if who == entity and time - max_age <= at <= time
        ]
        found.append(max(known, key=lambda row: row[:2])[2] if known else None)
    return found


@given(
    chance=st.randoms(use_true_random=False),
    counts=st.tuples(st.integers(0, 120), st.integers(1, 80)),
    max_age=st.integers(1, 6),
)
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
def test_the_join_is_the_one_written_by_hand(
    scratch: Path, chance: random.Random, counts: tuple[int, int], max_age: int
) -> None:
    features, labels = events(chance, counts[0]), events(chance, counts[1])
    folder = scratch / str(next(_orders))
    pipeline = credit_risk(training={"max_age": f"{max_age * 12}h"})
    for source, published, fields in (
        ("applications", features, lambda value: {"income": value}),
        ("outcomes", labels, lambda _: {"defaulted": True}),
    ):
        lake = SourceLake(folder / "lake" / source)
        records = [
            record(offset, who, at * 720, fields(value)) for offset, (who, at, value) in enumerate(published)
        ]
        half = len(records) // 2
        for part in (records[:half], records[half:]):
            if part:
                append(lake, pipeline, source, part)
    with database(folder) as opened:
        snapshot = Snapshot(opened, folder / "lake", pipeline)
        rows = snapshot.labels()
        batches = list(snapshot.joined(["applications.income"]))
    order = list(
        zip(*(rows.column(name).to_pylist() for name in (names.TIME, names.ENTITY, names.ID)), strict=True)
    )
    assert order == sorted(order)
    joined = pa.Table.from_batches(batches).column("applications.income").to_pylist()
    got = dict(zip(rows.column(names.ID).to_pylist(), joined, strict=True))
    assert len(joined) == len(labels)
    assert [got[f"ev-{number}"] for number in range(len(labels))] == by_hand(features, labels, max_age)


def test_labels_in_the_event_meet_their_own_event(tmp_path: Path) -> None:
    pipeline = credit_risk(
        targets={"married": {"from": "applications.Married", "type": "binary"}}, features=INCOME
    )
    records = population()["applications"]
    rows = rows_of(made := make(pipeline, tmp_path, {"applications": records}))
    assert sum(made.rows.values()) == len(rows) == 200
    for number, row in enumerate(sorted(rows, key=lambda row: row["__time"])):
        assert row["__id"] == f"ev-{number}"
        assert row["__time"] == EPOCH + timedelta(minutes=number)
    expected = {f"ev-{number}": json.loads(message.value)["fields"] for number, message in enumerate(records)}
    assert all(row["income"] == expected[row["__id"]]["income"] for row in rows)
    assert all(row["__label"] == int(expected[row["__id"]]["Married"]) for row in rows)
    assert all(row["__group_sex"] == expected[row["__id"]]["sex"] for row in rows)


def test_an_event_without_a_label_is_no_row(tmp_path: Path) -> None:
    pipeline = credit_risk(
        targets={"married": {"from": "applications.Married", "type": "binary"}}, features=INCOME
    )
    open_cases = [record(200 + n, f"b{n}", 200 + n, {"income": 5.0, "Married": None}) for n in range(40)]
    records = [*population()["applications"], *open_cases]
    rows = rows_of(make(pipeline, tmp_path, {"applications": records}))
    assert {row["__entity"] for row in rows} == {f"a{n}" for n in range(200)}
    assert {row["__label"] for row in rows} == {0, 1}


def test_every_label_of_an_entity_is_a_row(tmp_path: Path) -> None:
    sources = population(60)
    sources["outcomes"] += [
        record(100 + number, f"a{number}", 1000 + number, {"defaulted": False}) for number in range(60)
    ]
    rows = rows_of(make(credit_risk(), tmp_path, sources))
    assert len(rows) == 120
    assert len({row["__id"] for row in rows}) == 120


def test_what_the_parts_hold(tmp_path: Path) -> None:
    made = make(credit_risk(), tmp_path, population())
    schema = pq.read_schema(made.train.uri.removeprefix("file://"))
    assert {field.name: str(field.type) for field in schema} == {
        "__entity": "string",
        "__id": "string",
        "__time": "timestamp[us, tz=UTC]",
        "income": "double",
        "purpose": "string",
        "Married": "string",
        "country_y": "string",
        "__label": "int64",
        "__group_sex": "string",
    }
    described = json.loads(schema.metadata[b"penstock"])
    assert described["target"] == "default"
    assert described["classes"] == ["false", "true"]
    assert described["features"]["Married"] == {"type": "boolean", "source_field": "applications.Married"}
    rows = rows_of(made)
    assert {row["Married"] for row in rows} == {"true", "false"}
    assert None in {row["purpose"] for row in rows}
    assert [(part.topic, part.first, part.last) for part in made.offsets] == [
        ("credit-risk.applications.events.v1", 0, 200),
        ("credit-risk.outcomes.events.v1", 0, 200),
    ]


def test_a_row_brings_its_weight(tmp_path: Path) -> None:
    """And is no other training set for a pipeline that names none."""
    weighed = credit_risk(training={"sample_weight": "applications.income"})
    made, plain = (
        make(pipeline, tmp_path / str(number), population())
        for number, pipeline in enumerate((weighed, credit_risk()))
    )
    rows = rows_of(made)
    assert all(row["__weight"] == row["income"] for row in rows)
    assert made.fingerprint != plain.fingerprint
    assert "__weight" not in rows_of(plain)[0]


def test_a_label_without_features_keeps_its_place(tmp_path: Path) -> None:
    sources = population()
    sources["outcomes"] += [
        record(200, "stranger", 5, {"defaulted": True}),
        record(201, "a3", 60 * 24 * 90, {"defaulted": True}),
    ]
    rows = {row["__id"]: row for row in rows_of(make(credit_risk(), tmp_path, sources))}
    assert rows["ev-200"]["income"] is None
    assert rows["ev-201"]["income"] is None
    assert len(rows) == 202


def test_names_that_the_joins_sql_has_are_free_for_fields_and_sources(tmp_path: Path) -> None:
    spec = credit_risk().model_dump(mode="json", by_alias=True, exclude_unset=True)
    odd = ("label", "filename", "file_row_number", "row", "counts", "several")
    outcomes = spec["sources"].pop("outcomes")
    outcomes["fields"] |= {name: {"type": "category"} for name in odd}
    pipeline = credit_risk(
        sources=spec["sources"] | {"labels": outcomes},
        features=INCOME | {name: {"from": f"labels.{name}"} for name in odd},
        targets={"default": {"from": "labels.defaulted", "type": "binary"}},
    )
    told = [
        {"defaulted": (None, True, False)[number % 3]} | {name: (name, None)[number % 2] for name in odd}
        for number in range(300)
    ]
    labels = [record(number, f"a{number}", 1000 + number, fields) for number, fields in enumerate(told)]
    made = make(pipeline, tmp_path, {"applications": population()["applications"], "labels": labels})
    found = {
        row["__id"]: {"defaulted": bool(row["__label"])} | {name: row[name] for name in odd}
        for row in rows_of(made)
    }
    assert found == {
        f"ev-{number}": fields for number, fields in enumerate(told) if fields["defaulted"] is not None
    }


# -- the name --------------------------------------------------------------------------------------


def test_the_fingerprint_does_not_know_how_files_lie(tmp_path: Path) -> None:
    sources = population()
    found = {
        make(credit_risk(), tmp_path, sources, files=files, merge=merge).fingerprint
        for files, merge in ((1, False), (7, False), (40, False), (40, True))
    }
    assert len(found) == 1


@pytest.mark.parametrize("repeats", [False, True])
def test_a_repeat_is_found_among_more_keys_than_are_read_at_once(tmp_path: Path, repeats: bool) -> None:
    with database(tmp_path) as opened:
        lake = Snapshot(opened, tmp_path, credit_risk())
        keys = f"(SELECT key % {199_999 + (not repeats)} AS key FROM range(200000) AS of (key)) AS rows"
        assert lake._may_repeat(keys, "key") == repeats


@given(st.sets(st.tuples(st.integers(0, 5), st.text("ab", max_size=2), st.integers(0, 9)), min_size=1))
def test_labels_of_one_moment_are_put_in_the_order_of_their_keys(labels: set[tuple[int, str, int]]) -> None:
    rows = sorted(labels, key=lambda row: row[0])
    columns = dict(zip((names.TIME, "who", "at"), zip(*rows, strict=True), strict=True))
    order = order_of(pa.table(columns), ("who", "at"))
    assert (order is None) == (len({time for time, *_ in rows}) == len(rows))
    assert [rows[place] for place in (range(len(rows)) if order is None else order.to_pylist())] == sorted(
        rows
    )


def test_an_event_counts_once_though_a_crash_recorded_it_twice(tmp_path: Path) -> None:
    """As the record that was written first."""
    once, doubled = population(80), population(80)
    again = doubled["applications"][20]
    changed = json.loads(again.value)
    changed["fields"]["income"] += 7
    later = again._replace(offset=len(doubled["applications"]), value=json.dumps(changed).encode())
    doubled["applications"] += [later]
    made, twice = (make(credit_risk(), tmp_path, sources, files=3) for sources in (once, doubled))
    assert twice.fingerprint == made.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"max_age": "30d", "seed": 8}},
        {"training": {"max_age": "29d"}},
        {"features": INCOME},
        {"split": {"by": "time"}},
    ],
)
def test_the_fingerprint_knows_what_was_asked_for(tmp_path: Path, change: dict[str, Any]) -> None:
    sources = population(80)
    assert (
        make(credit_risk(), tmp_path, sources).fingerprint
        != make(credit_risk(**change), tmp_path, sources).fingerprint
    )


def test_the_fingerprint_knows_every_value(tmp_path: Path) -> None:
    sources, other = population(80), population(80)
    changed = json.loads(other["applications"][17].value)
    changed["fields"]["income"] += 1e-9
    other["applications"][17] = other["applications"][17]._replace(value=json.dumps(changed).encode())
    assert (
        make(credit_risk(), tmp_path, sources).fingerprint != make(credit_risk(), tmp_path, other).fingerprint
    )


# -- the parts -------------------------------------------------------------------------------------


def test_an_entity_is_in_one_part_and_stays_there(tmp_path: Path) -> None:
    few, many = (make(credit_risk(), tmp_path, population(count)) for count in (100, 400))

    def place(made: TrainingSet) -> dict[str, str]:
        found = {}
        for name in PARTS:
            for entity in pq.read_table(getattr(made, name).uri.removeprefix("file://"))[
                "__entity"
            ].to_pylist():
                assert found.setdefault(entity, name) == name
                found[entity] = name
        return found

    before, after = place(few), place(many)
    assert all(after[entity] == part for entity, part in before.items())
    assert abs(many.rows["train"] / 400 - 0.6) < 0.1


@given(st.lists(st.text(max_size=8), max_size=50), st.integers(0, 2**31 - 1))
@settings(max_examples=50, deadline=None)
def test_the_split_by_entity_looks_at_nothing_else(entities: list[str], seed: int) -> None:
    parts = SplitParts()
    whole = by_entity(entities, parts, seed)
    assert [by_entity([entity], parts, seed)[0] for entity in entities] == list(whole)


def test_the_split_by_entity_is_pinned() -> None:
    """A release must not move rows between training and audit."""
    assert (
        "".join(str(part) for part in by_entity([f"a{number}" for number in range(24)], SplitParts(), 7))
        == PINNED
    )


PINNED = "122000020000000101002202"


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60))
@settings(max_examples=100, deadline=None)
def test_the_split_by_time_keeps_moments_whole(times: list[int]) -> None:
    parts = by_time(np.array(times, np.int64), SplitParts())
    for earlier, later in itertools.product(range(len(times)), repeat=2):
        if times[earlier] <= times[later]:
            assert parts[earlier] <= parts[later]


# -- refusals --------------------------------------------------------------------------------------


def only(value: Any, count: int = 100) -> dict[str, list[Received]]:
    sources = population(count)
    return sources | {
        "outcomes": [record(number, f"a{number}", 1000, {"defaulted": value}) for number in range(count)]
    }


def one_mistyped() -> dict[str, list[Received]]:
    """One label, in the validation part."""
    sources = population()
    application = {"income": 1.0, "purpose": "haus", "Married": True, "country_y": "nl", "sex": "f"}
    return sources | {"applications": [*sources["applications"], record(200, "a-4", 200, application)]}


def without_income() -> dict[str, list[Received]]:
    sources = population(100)
    empty = [
        record(
            number,
            f"a{number}",
            number,
            {"income": None, "purpose": "home", "Married": True, "country_y": "nl", "sex": "f"},
        )
        for number in range(100)
    ]
    return sources | {"applications": empty}


@pytest.mark.parametrize(
    ("sources", "change", "error", "sentence"),
    [
        (
            {},
            {},
            Conflict,
            "no labels yet: no event of `outcomes` carries a value. Publish labelled events first",
        ),
        (only(None), {}, Conflict, "no labels yet"),
        (only(True), {}, Conflict, "all 100 labels are `true`. Publish events of the other class too"),
        (only(False), {}, Conflict, "none of 100 labels is `true` (found: `false` 100). Correct `positive`"),
        (
            population(30),
            {},
            Conflict,
            "30 labelled rows, at least 50 are needed. Publish more labelled events",
        ),
        (
            {
                **population(60),
                "outcomes": [
                    record(number, "a1", number, {"defaulted": bool(number % 2)}) for number in range(60)
                ],
            },
            {},
            Conflict,
            "part is empty: 60 rows of 1 entities",
        ),
        (
            one_mistyped(),
            {"targets": {"why": {"from": "applications.purpose", "type": "multiclass"}}, "features": INCOME},
            Conflict,
            "the train part has no row labelled `haus`, the whole 1 of 149. Publish more events of that"
            " class. If it is a mistake, `penstock erase credit-risk ENTITY` takes out whoever has it;"
            " with its `values` declared, `applications.purpose` takes no other",
        ),
        (without_income(), {}, Conflict, "features.income: applications.income is missing in all"),
        (without_income(), {}, Conflict, "never served `penstock delete credit-risk` takes the old ones"),
        (
            population(),
            {"split": {"by": "loan"}},
            Invalid,
            "split.by: rows are about `applicant`, not `loan`. Write `by: applicant` or `by: time`",
        ),
        (population(), {"audit": {"groups": {"seks": {}}}}, Invalid, "no source has a field `seks`"),
        (
            population(),
            {"targets": {"default": {"from": "applications.purpose", "type": "regression"}}},
            Invalid,
            "a regression needs numbers, applications.purpose is a category",
        ),
    ],
)
def test_a_refusal_says_what_to_change(
    tmp_path: Path,
    sources: dict[str, list[Received]],
    change: dict[str, Any],
    error: type[PenstockError],
    sentence: str,
) -> None:
    with pytest.raises(error) as refused:
        make(credit_risk(**change), tmp_path, sources)
    assert sentence in str(refused.value)
    assert refused.value.remedy


def test_numbers_of_a_lake_from_before_they_were_bounded_are_missing(tmp_path: Path) -> None:
    sources = population()
    huge = {"income": -1e200, "purpose": "car", "Married": True, "country_y": "nl", "sex": "f"}
    sources["applications"][7] = record(7, "a7", 7, huge)
    rows = rows_of(make(credit_risk(), tmp_path, sources))
    assert [row["__id"] for row in rows if row["income"] is None] == ["ev-7"]


def test_what_is_about_another_entity_cannot_be_joined() -> None:
    spec = credit_risk().model_dump(mode="json", by_alias=True)
    spec["entities"]["loan"] = {"key": "loan_id"}
    spec["sources"]["outcomes"]["entity"] = "loan"
    with pytest.raises(Invalid, match="nothing joins them"):
        columns_of(Pipeline.model_validate(spec))


# -- kinds of target -------------------------------------------------------------------------------


def test_several_classes_and_numbers(tmp_path: Path) -> None:
    sources = {"applications": population()["applications"]}
    several = make(
        credit_risk(
            targets={"purpose": {"from": "applications.purpose", "type": "multiclass"}}, features=INCOME
        ),
        tmp_path,
        sources,
    )
    married = {"married": {"from": "applications.Married"}}
    number = make(
        credit_risk(
            targets={"income": {"from": "applications.income", "type": "regression"}}, features=married
        ),
        tmp_path,
        sources,
    )
    schema = pq.read_schema(several.train.uri.removeprefix("file://"))
    assert json.loads(schema.metadata[b"penstock"])["classes"] == ["car", "home"]
    assert {row["__label"] for row in rows_of(several)} == {0, 1}
    assert pq.read_schema(number.train.uri.removeprefix("file://")).field("__label").type == pa.float64()
