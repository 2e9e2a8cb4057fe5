"""The lake by itself: positions, merging, crashes, fields that come later, erasure."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.contracts.errors import Conflict, Invalid
from penstock.contracts.pipeline import Source
from penstock_feature_store import names
from penstock_feature_store.lake.batches import Received, divided, source_schema, table_of
from penstock_feature_store.lake.files import RUN, LakeFile, divide, next_merge, positions
from penstock_feature_store.lake.lake import Lake, SourceLake, once

SOURCE = Source.model_validate(
    {
        "entity": "person",
        "id": "id",
        "timestamp": "at",
        "fields": {"age": {"type": "number"}, "Job": {"type": "category"}, "keen_y": {"type": "boolean"}},
    }
)
SCHEMA = source_schema(SOURCE)


def received(
    offset: int, *, entity: str | None = None, event_offset: int | None = None, **fields: object
) -> Received:
    record = {
        "id": f"id-{offset}",
        "entity": entity or f"e{offset % 7}",
        "time": "2025-03-01T10:00:00.000001Z",
        "partition": 0,
        "offset": offset * 2 if event_offset is None else event_offset,
        "traceparent": None,
        "fields": {"age": float(offset), "Job": "clerk", "keen_y": True, **fields},
    }
    return Received(offset, 1_700_000_000_000, orjson.dumps(record))


def rows(first: int, last: int, **more: object) -> pa.Table:
    return table_of([received(offset, **more) for offset in range(first, last)], SCHEMA)  # type: ignore[arg-type]


WHOLE = {
    "id": "1",
    "entity": "Rosalind",
    "time": "2025-03-01T10:00:00Z",
    "partition": 0,
    "offset": 0,
    "traceparent": None,
    "fields": {},
}
ODD: dict[str, bytes] = {
    "no JSON": b"\xff\x00",
    "NaN": json.dumps(WHOLE | {"fields": {"age": float("nan")}}).encode(),
    "no object": b"[]",
    "no id": json.dumps({name: value for name, value in WHOLE.items() if name != "id"}).encode(),
    "an id that is a number": json.dumps(WHOLE | {"id": 1}).encode(),
    "no time": json.dumps(WHOLE | {"time": "1920"}).encode(),
    "a partition beyond 32 bit": json.dumps(WHOLE | {"partition": 2**40}).encode(),
    "an offset beyond 64 bit": json.dumps(WHOLE | {"offset": 2**63}).encode(),
    "a text in a number's field": json.dumps(WHOLE | {"fields": {"age": "Rosalind"}}).encode(),
    "a list in a field": json.dumps(WHOLE | {"fields": {"Job": ["Rosalind"]}}).encode(),
}


@pytest.mark.parametrize("odd", ODD)
def test_a_record_that_is_none_is_left_out_and_the_others_are_kept(odd: str) -> None:
    batch = [received(0), Received(1, 1_700_000_000_000, ODD[odd]), received(2)]
    table, unfit = divided(batch, SCHEMA)
    assert table.column(names.RECORD).to_pylist() == [0, 2]
    [(offset, why)] = unfit
    assert offset == 1
    assert isinstance(why, Invalid)
    assert "Rosalind" not in str(why), "a dead letter tells nobody's values"


def test_of_a_field_that_nobody_declared_yet_the_first_type_counts() -> None:
    batch = [received(0, savings=1.0), received(1, savings="much"), received(2, savings=None), received(3)]
    table, unfit = divided(batch, SCHEMA)
    assert table.column("savings").to_pylist() == [1.0, None, None]
    assert [offset for offset, _ in unfit] == [1]


def test_values_of_another_type_hide_no_others(tmp_path: Path) -> None:
    """They are from before the field was declared; a merge and every reader go on."""
    lake = SourceLake(tmp_path)
    for first, value in (
        (0, "a lot"),
        (2, "7"),
        (4, 3.0),
        (6, 4.0),
        (8, 5.0),
        (10, 6.0),
        (12, 7.0),
        (14, 8.0),
    ):
        batch = [received(offset, savings=value) for offset in (first, first + 1)]
        lake.append(0, first, first + 2, table_of(batch, SCHEMA))
    savings = [None, None, 7.0, 7.0, *(float(value) for value in (3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8))]
    assert lake.read(["savings"]).column("savings").to_pylist() == savings
    lake.merge()
    assert lake.read(["savings"]).column("savings").to_pylist() == savings
    assert lake.file_count() < 8


def offsets(lake: SourceLake) -> list[int]:
    return sorted(once(lake.read([names.PARTITION, names.OFFSET])).column(names.OFFSET).to_pylist())


def test_records_keep_their_types_and_missing_stays_missing(tmp_path: Path) -> None:
    table = table_of([received(0), received(1, age=None, Job=None, keen_y=None)], SCHEMA)
    assert table.schema.types == SCHEMA.types
    row = table.to_pylist()[1]
    assert row[names.column_of("age")] is None
    assert row[names.column_of("keen_y")] is None
    assert str(table.to_pylist()[0][names.TIME]) == "2025-03-01 10:00:00.000001+00:00"


def test_the_position_is_in_the_files(tmp_path: Path) -> None:
    lake = SourceLake(tmp_path)
    lake.append(0, 0, 10, rows(0, 9))
    lake.append(0, 10, 12, rows(10, 12))
    lake.append(3, 100, 101, rows(100, 101))
    assert SourceLake(tmp_path).positions() == {0: 12, 3: 101}
    assert SourceLake(tmp_path).count() == 12


def test_a_lost_file_is_read_again(tmp_path: Path) -> None:
    lake = SourceLake(tmp_path)
    for first in (0, 10, 20):
        lake.append(0, first, first + 10, rows(first, first + 10))
    next(tmp_path.glob("p00000-00000000000000000010-*")).unlink()
    again = SourceLake(tmp_path)
    assert again.positions() == {0: 10}
    again.append(0, 10, 25, rows(10, 25))
    assert offsets(SourceLake(tmp_path)) == [2 * offset for offset in range(30)]
    assert SourceLake(tmp_path).count() == 30


def test_merging_bounds_the_files_and_keeps_the_rows(tmp_path: Path) -> None:
    lake = SourceLake(tmp_path)
    for first in range(100):
        lake.append(0, first, first + 1, rows(first, first + 1))
        lake.merge()
        assert lake.file_count() < 2 * RUN
    assert offsets(lake) == [2 * offset for offset in range(100)]
    again = SourceLake(tmp_path)
    assert (again.count(), again.positions()) == (100, {0: 100})


@pytest.mark.parametrize("survivors", [0, 1, 5, 8])
def test_a_merge_cut_short_leaves_the_same_rows(tmp_path: Path, survivors: int) -> None:
    lake = SourceLake(tmp_path)
    for first in range(RUN):
        lake.append(0, first, first + 1, rows(first, first + 1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert lake.merge() == RUN - 1
    for name in sorted(before)[:survivors]:
        (tmp_path / name).write_bytes(before[name])
    (tmp_path / ".unfinished-p0.parquet").write_bytes(b"half")
    again = SourceLake(tmp_path)
    assert (again.count(), again.file_count()) == (RUN, 1)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_field_that_comes_later_reads_as_missing_before(tmp_path: Path) -> None:
    lake = SourceLake(tmp_path)
    lake.append(0, 0, 2, rows(0, 2))
    lake.append(0, 2, 3, table_of([received(2, income=7.0)], SCHEMA))
    assert lake.read([names.OFFSET, "income"]).sort_by(names.OFFSET).column("income").to_pylist() == [
        None,
        None,
        7.0,
    ]
    assert SourceLake(tmp_path).count("income") == 1
    for first in range(3, 3 + RUN):
        lake.append(0, first, first + 1, rows(first, first + 1))
    assert lake.merge()
    assert SourceLake(tmp_path).count("income") == 1


def test_rows_that_came_twice_count_once(tmp_path: Path) -> None:
    lake = SourceLake(tmp_path)
    lake.append(0, 0, 4, rows(0, 4))
    lake.append(0, 4, 6, table_of([received(4, event_offset=2), received(5, event_offset=100)], SCHEMA))
    assert lake.count() == 5
    assert offsets(lake) == [0, 2, 4, 6, 100]


def test_counting_since_a_position(tmp_path: Path) -> None:
    lake = SourceLake(tmp_path)
    lake.append(0, 0, 10, rows(0, 10))
    lake.append(
        0,
        10,
        20,
        table_of([received(offset, age=None if offset % 2 else 1.0) for offset in range(10, 20)], SCHEMA),
    )
    assert lake.count("age") == 15
    assert [lake.count("age", since={0: start}) for start in (0, 5, 10, 15, 20, 99)] == [15, 10, 5, 2, 0, 0]
    assert lake.count("nothing") == 0


def test_erasing_leaves_no_byte(tmp_path: Path) -> None:
    lake = SourceLake(tmp_path)
    lake.append(0, 0, 20, rows(0, 20))
    lake.append(0, 20, 30, rows(20, 30, entity="Grace-Hopper-7"))
    lake.append(0, 30, 33, rows(30, 33))
    assert any(b"Grace-Hopper-7" in path.read_bytes() for path in tmp_path.iterdir())
    assert lake.erase("Grace-Hopper-7") == 10
    assert lake.erase("Grace-Hopper-7") == 0
    assert not any(b"Grace-Hopper-7" in path.read_bytes() for path in tmp_path.iterdir())
    again = SourceLake(tmp_path)
    assert (again.count(), again.positions()) == (23, {0: 33})


def test_an_erasure_cut_short_does_not_bring_rows_back(tmp_path: Path) -> None:
    lake = SourceLake(tmp_path)
    lake.append(0, 0, 20, rows(0, 20))
    before = next(tmp_path.iterdir())
    saved = before.read_bytes()
    lake.erase("e3")
    before.write_bytes(saved)
    assert "e3" not in SourceLake(tmp_path).read([names.ENTITY]).column(names.ENTITY).to_pylist()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_merge_that_meets_an_erasure_brings_no_row_back(tmp_path: Path) -> None:
    lake = SourceLake(tmp_path)
    for first in range(RUN):
        lake.append(0, first, first + 1, rows(first, first + 1))
    before = lake._by_offset()
    assert lake.erase("e3") == 1
    assert lake._merge(before) == 0
    assert lake.merge() == RUN - 1
    assert offsets(lake) == [2 * offset for offset in range(RUN) if offset != 3]
    assert SourceLake(tmp_path).count() == RUN - 1


def test_rows_leave_by_when_they_were_published(tmp_path: Path) -> None:
    lake = SourceLake(tmp_path)
    old = [
        received(offset)._replace(timestamp_ms=1_000_000_000_000 if offset < 5 else 1_700_000_000_000)
        for offset in range(10)
    ]
    lake.append(0, 0, 10, table_of(old, SCHEMA))
    lake.append(0, 10, 12, rows(10, 12))
    published = datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)
    assert lake.expire(published) == 0
    assert lake.expire(published + timedelta(hours=23)) == 0
    assert lake.expire(published + timedelta(days=2)) == 5
    assert offsets(SourceLake(tmp_path)) == [2 * offset for offset in range(5, 12)]
    assert SourceLake(tmp_path).positions() == {0: 12}


def test_links_outlive_merging(tmp_path: Path) -> None:
    lake = SourceLake(tmp_path / "lake")
    for first in range(RUN):
        lake.append(0, first, first + 1, rows(first, first + 1))
    assert lake.link(tmp_path / "linked") == {0: RUN}
    lake.merge()
    assert SourceLake(tmp_path / "linked").count() == RUN


def test_following_from_any_position(tmp_path: Path) -> None:
    lake = SourceLake(tmp_path)
    lake.append(0, 0, 12, rows(0, 10))
    lake.append(1, 5, 9, rows(5, 9))
    seen: dict[int, int] = {}
    got: list[tuple[int, int]] = []
    for partition, position, part in lake.since({0: 4}, rows=3):
        got += [(partition, offset) for offset in part.column(names.RECORD).to_pylist()]
        seen[partition] = position
    assert got == [(0, offset) for offset in range(4, 10)] + [(1, offset) for offset in range(5, 9)]
    assert seen == {0: 12, 1: 9}


def test_one_process_owns_the_lake(tmp_path: Path) -> None:
    with Lake(tmp_path), pytest.raises(Conflict, match="another process"), Lake(tmp_path):
        pass


RANGES = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 15)), max_size=12)


@given(RANGES)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_counts_covers_all_that_was_written(ranges: list[tuple[int, int]]) -> None:
    files = [LakeFile(0, first, first + length, epoch) for epoch, (first, length) in enumerate(ranges)]
    counting, shadowed = divide(files)
    covered = {offset for file in files for offset in range(file.first, file.next)}
    assert {offset for file in counting for offset in range(file.first, file.next)} == covered
    assert len(counting) + len(shadowed) == len(files)
    for partition, position in positions(counting).items():
        start = min(file.first for file in counting if file.partition == partition)
        assert set(range(start, position)) <= covered
        assert position not in covered


@given(st.lists(st.integers(1, 100_000), max_size=60))
@settings(max_examples=100, deadline=None)
def test_merging_ends_and_leaves_few_files(sizes: list[int]) -> None:
    files = [(LakeFile(0, index, index + 1, 1), rows) for index, rows in enumerate(sizes)]
    for _ in range(1000):
        run = next_merge(files)
        if not run:
            break
        start = next(index for index, (file, _) in enumerate(files) if file == run[0])
        rows_ = sum(rows for _, rows in files[start : start + len(run)])
        files[start : start + len(run)] = [(LakeFile(0, run[0].first, run[-1].next, 1), rows_)]
    assert len(files) <= 40
    assert sum(rows for _, rows in files) == sum(sizes)
