"""Rows from files: what a cell means is declared, what does not read stays for ingest to reject."""

import json
import math
from datetime import date, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from penstock.client.files import rows
from penstock.contracts.errors import Invalid, NotFound
from penstock.contracts.pipeline import Source, SourceField

SOURCE = Source(
    entity="person",
    id="id",
    timestamp="at",
    fields={
        "age": SourceField(type="number"),
        "job": SourceField(type="category"),
        "married": SourceField(type="boolean"),
    },
)


def test_csv_cells_are_read_as_declared(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text("id,age,job,married\n1,39,clerk,true\n2,,,no\n3,old,7,perhaps\n")
    assert list(rows(path, SOURCE)) == [
        {"id": "1", "age": 39.0, "job": "clerk", "married": True},
        {"id": "2", "age": None, "job": None, "married": False},
        {"id": "3", "age": "old", "job": "7", "married": "perhaps"},
    ]


@pytest.mark.parametrize(
    ("cell", "read"),
    [
        ("2026-01-31T12:00:00+02:00", "2026-01-31T12:00:00+02:00"),
        ("2026-01-31 12:00", "2026-01-31T12:00:00"),
        ("2026-01-31", "2026-01-31T00:00:00"),
        ("1769860800", 1769860800.0),
        ("1769860800.5", 1769860800.5),
        ("20260131", "2026-01-31T00:00:00"),
        ("2026", "2026"),
        ("1712123112000", 1712123112000.0),
        ("31.1.2026", "31.1.2026"),
        ("nan", "nan"),
        ("", None),
    ],
)
def test_a_csv_time_keeps_to_name_no_zone(tmp_path: Path, cell: str, read: object) -> None:
    path = tmp_path / "people.csv"
    path.write_text(f"id,at,other\n1,{cell},{cell}\n")
    assert list(rows(path, SOURCE)) == [{"id": "1", "at": read, "other": cell or None}]


def test_a_parquet_time_keeps_to_name_no_zone(tmp_path: Path) -> None:
    path = tmp_path / "people.parquet"
    naive, day = datetime.fromisoformat("2026-01-31T12:00"), date(2026, 1, 31)
    for column, expected in (
        ([naive], "2026-01-31T12:00:00"),
        ([day], "2026-01-31"),
        ([5], 5),
    ):
        parquet.write_table(pa.table({"at": column}), path)
        assert list(rows(path, SOURCE)) == [{"at": expected}]


@pytest.mark.parametrize(
    ("cell", "read"),
    [
        ("inf", math.inf),
        ("-1e999", -math.inf),
        ("1_0", "1_0"),
        ("٣", "٣"),
        ("NA", "NA"),
        (" 39", 39),
        ("-0.0", -0.0),
        ("9007199254740993", 2**53 + 1),
    ],
)
def test_a_csv_number_is_changed_by_nothing(tmp_path: Path, cell: str, read: object) -> None:
    path = tmp_path / "people.csv"
    path.write_text(f"age\n{cell}\n")
    assert str(list(rows(path, SOURCE))) == str([{"age": read}])


def test_a_csv_time_with_underscores_is_none(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text("at\n1_769_860_800\n")
    assert list(rows(path, SOURCE)) == [{"at": "1_769_860_800"}]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"id,age,id\n1,2,3\n", "column `id` is named twice"),
        ("a.csv", b"id,age\n1,2\n3\n", "a.csv:3: a row has fewer cells than the header"),
        ("a.csv", b'id,age\n"1"2,3\n', "a.csv:2: no CSV"),
        ("a.csv", b'id,age\n1,"2\n3,4\n', "a.csv:3: no CSV: unexpected end of data"),
        ("a.csv", "id,name\n1,Zoë\n".encode("latin-1"), "not UTF-8.*--encoding cp1252 .reads it as `1,Zoë`"),
        ("a.csv", b"id,name\n1," + b"x" * 200_000 + b"\n", "a.csv:2: no CSV: field larger"),
        ("a.parquet", b"no Parquet at all", "no Parquet that can be read"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused_in_a_sentence(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Invalid, match=said):
        list(rows(tmp_path / name))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    for folder in (tmp_path / "a.csv", tmp_path):
        with pytest.raises(Invalid, match=r"is a folder\. Name a file in it"):
            list(rows(folder))


def test_a_csv_row_with_too_many_cells_says_which_line(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text("id,name\n1,a\n2,b,c\n")
    with pytest.raises(Invalid, match=r"people\.csv:3: a row has more cells"):
        list(rows(path))


def test_a_parquet_column_named_twice_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table([pa.array([1]), pa.array([2])], names=["id", "id"]), tmp_path / "a.parquet")
    with pytest.raises(Invalid, match="column `id` is named twice"):
        list(rows(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("name;age;at\nZoë;1,5;x, y\n", "utf-8-sig"),
        ("name;age;at\nZoë;1,5;x, y\n", "utf-16"),
        ("name\tage\tat\nZoë\t1.5\tx, y\n", "cp1252"),
        ("name|age|at\nZoë|1.5|x, y\n", "utf-8"),
        ('name, age, at\nZoë, 1.5, "x, y"\n', "utf-8"),
    ],
)
def test_separator_decimal_mark_and_encoding_of_a_csv(tmp_path: Path, content: str, encoding: str) -> None:
    path = tmp_path / "people.csv"
    path.write_bytes(content.encode(encoding))
    said = encoding if encoding == "cp1252" else None
    assert list(rows(path, SOURCE, encoding=said)) == [{"name": "Zoë", "age": 1.5, "at": "x, y"}]


def test_columns_stand_under_their_fields_and_publishing_writes_what_a_file_lacks(tmp_path: Path) -> None:
    source = Source.model_validate(
        {
            "entity": "person",
            "id": "row",
            "timestamp": "at",
            "columns": {"row": "$row_number", "at": "$publishing_time"},
            "fields": {"years": {"type": "number", "from": "education-num"}, "code": {"type": "category"}},
        }
    )
    path = tmp_path / "people.csv"
    path.write_text("education-num,code\n9,7\n9,7\n")
    first, second = (row for row in rows(path, source) if not isinstance(row, bytes))
    assert (first["years"], first["code"]) == (9, "7")
    assert (str(first["row"])[:2], str(second["row"])[:2]) == ("1-", "2-")
    assert datetime.fromisoformat(str(first["at"])).tzinfo
    again = next(iter(rows(path, source)))
    assert not isinstance(again, bytes)
    assert again["row"] == first["row"], "published again, a row is a repeat"
    table = tmp_path / "people.parquet"
    parquet.write_table(pa.table({"education-num": [9.0], "code": [7]}), table)
    assert next(iter(rows(table, source))) | {"row": 0, "at": 0} == {
        "years": 9,
        "code": "7",
        "row": 0,
        "at": 0,
    }


def test_a_broken_json_line_is_given_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "people.jsonl"
    path.write_bytes(b'{"id": 1}\n\n{"id": \n[2]\n')
    assert list(rows(path, SOURCE)) == [{"id": 1}, b'{"id":', b"[2]"]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "people.parquet"
    parquet.write_table(pa.table({"id": [1, 2], "age": [39.0, None]}), path)
    assert list(rows(path)) == [{"id": 1, "age": 39.0}, {"id": 2, "age": None}]


@pytest.mark.parametrize(("name", "error"), [("absent.csv", NotFound), ("table.xlsx", Invalid)])
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, name: str, error: type[Exception]) -> None:
    (tmp_path / "table.xlsx").touch()
    with pytest.raises(error, match=name):
        list(rows(tmp_path / name))


@given(
    st.lists(
        st.dictionaries(
            st.text(max_size=5), st.one_of(st.none(), st.integers(-(2**53), 2**53), st.text(max_size=9))
        ),
        max_size=9,
    )
)
def test_json_lines_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, data: list[dict[str, object]]
) -> None:
    path = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in data))
    assert list(rows(path)) == data
