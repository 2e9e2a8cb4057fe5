"""Rows from files: what a cell means is declared, what does not read stays for ingest to reject."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from penstock.client.files import rows
from penstock.client.infer import infer
from penstock.contracts.errors import Invalid, NotFound
from penstock.contracts.load import read
from penstock.contracts.pipeline import SourceField

FIELDS = {
    "age": SourceField(type="number"),
    "job": SourceField(type="category"),
    "married": SourceField(type="boolean"),
}


def test_csv_cells_are_read_as_declared(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text("id,age,job,married\n1,39,clerk,true\n2,,,no\n3,old,7,perhaps\n")
    assert list(rows(path, FIELDS)) == [
        {"id": "1", "age": 39.0, "job": "clerk", "married": True},
        {"id": "2", "age": None, "job": None, "married": False},
        {"id": "3", "age": "old", "job": "7", "married": "perhaps"},
    ]


def test_a_csv_row_with_too_many_cells_says_which_line(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text("id,name\n1,a\n2,b,c\n")
    with pytest.raises(Invalid, match=r"people\.csv:3: a row has more cells"):
        list(rows(path))


def test_a_broken_json_line_is_given_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "people.jsonl"
    path.write_bytes(b'{"id": 1}\n\n{"id": \n[2]\n')
    assert list(rows(path)) == [{"id": 1}, b'{"id":', b"[2]"]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "people.parquet"
    parquet.write_table(pa.table({"id": [1, 2], "age": [39.0, None]}), path)
    assert list(rows(path)) == [{"id": 1, "age": 39.0}, {"id": 2, "age": None}]


@pytest.mark.parametrize(("name", "error"), [("absent.csv", NotFound), ("table.xlsx", Invalid)])
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, name: str, error: type[Exception]) -> None:
    (tmp_path / "table.xlsx").touch()
    with pytest.raises(error, match=name):
        list(rows(tmp_path / name))


@given(st.lists(st.dictionaries(st.text(max_size=5), st.one_of(st.none(), st.integers(-(2**53), 2**53), st.text(max_size=9))), max_size=9))
def test_json_lines_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, data: list[dict[str, object]]) -> None:
    path = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in data))
    assert list(rows(path)) == data


def test_a_guessed_pipeline_is_one(tmp_path: Path) -> None:
    path = tmp_path / "Loans 2026.csv"
    lines = [
        f"{i},2026-01-{1 + i % 28:02d}T00:00:00+00:00,{20 + i % 50},{'fm'[i % 2]},{1000 + i},{'yes' if i % 3 else 'no'}" for i in range(90)
    ]
    path.write_text("loan_id,applied_at,age,sex,amount,repaid\n" + "\n".join(lines) + "\n")
    pipeline = read(infer(path))
    assert pipeline.pipeline == "loans-2026"
    assert pipeline.key == "loan_id"
    assert pipeline.sources["events"].timestamp == "applied_at"
    assert pipeline.sources["events"].fields["sex"].protected
    assert (pipeline.target.type, pipeline.target.positive) == ("binary", "yes")
    assert set(pipeline.audit.groups) == {"age", "sex"}
    assert list(pipeline.resolved_features()) == ["amount"]
