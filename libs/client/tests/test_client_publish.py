"""Before a file is sent and after: what cannot fit is refused, what ingest made of it is told."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from penstock.client.checks import check, complete, lacking
from penstock.client.files import rows
from penstock.contracts.errors import Invalid
from penstock.contracts.load import read
from penstock.contracts.pipeline import Source

DECLARED = {
    "entity": "person",
    "id": "id",
    "timestamp": "at",
    "fields": {
        "age": {"type": "number", "required": True},
        "job": {"type": "category", "from": "Job title"},
        "pin": {"type": "number", "personal": True},
    },
}


def refused(path: Path, **change: object) -> str:
    source = Source.model_validate(DECLARED | change)
    with pytest.raises(Invalid) as caught:
        check(path, list(rows(path, source)), source, "id")
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "id,at,age,Job title,income\n1,2026-01-31T00:00:00Z,3,x,5\n",
            "column `income`: the source declares no",
        ),
        (
            ",id,at,age\n0,1,2026-01-31T00:00:00Z,3\n",
            "the column without a name: the source declares no such field",
        ),
        ("id,at,age,job_title\n1,2026-01-31T00:00:00Z,3,x\n", "did you mean `Job title`?"),
        (
            "id,at,aeg\n1,2026-01-31T00:00:00Z,3\n",
            "column `age` is missing, which is required; did you mean `aeg`",
        ),
        ("at,age\n2026-01-31T00:00:00Z,3\n", "column `id` is missing, which names the event"),
        ("id,at,age\n1,2026-01-31,3\n", "`at` names no time zone, as in `2026-01-31T00:00:00`: declare"),
        (
            "id,at,age\n1,09.05.2017,3\n2,10.05.2017,4\n",
            "`at` holds no time that can be read, as `09.05.2017`: write 2026-01-31T12:00:00Z, a day as",
        ),
        (
            "id,at,age\n1,2026-01-31T00:00:00Z,old\n",
            "`age` is declared number; no value of the column is one, as `old`",
        ),
    ],
)
def test_a_file_that_cannot_fit_is_refused_before_anything_is_sent(
    tmp_path: Path, content: str, said: str
) -> None:
    path = tmp_path / "people.csv"
    path.write_text(content)
    assert said in refused(path)


def test_all_misfits_are_told_at_once_and_no_personal_value(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text("id,when,age,pin\n1,2026,3,secret\n")
    said = refused(path)
    assert "column `when`" in said
    assert "column `at` is missing" in said
    assert "`pin` is declared number" in said
    assert "secret" not in said


def test_a_parquet_file_is_judged_by_the_same_rules(tmp_path: Path) -> None:
    path = tmp_path / "people.parquet"
    noon = datetime.fromisoformat("2026-01-31T12:00:00")
    parquet.write_table(pa.table({"id": [1.0], "at": [noon], "age": ["3"]}), path)
    said = refused(path)
    assert "`at` names no time zone" in said
    assert "`age` is declared number" in said
    assert [
        row["id"] for row in rows(path, Source.model_validate(DECLARED)) if not isinstance(row, bytes)
    ] == [1]


def test_one_bad_row_among_good_ones_is_for_ingest_to_reject(tmp_path: Path) -> None:
    path = tmp_path / "people.jsonl"
    path.write_text(
        '{"id": 1, "at": "2026-01-31", "age": 3}\n'
        '{"id": 2, "at": "2026-01-31T00:00:00Z", "age": "x", "odd": 1}\n{\n'
    )
    source = Source.model_validate(DECLARED)
    check(path, list(rows(path, source)), source, "id")


def test_a_numbered_row_is_a_repeat_whatever_file_it_comes_from(tmp_path: Path) -> None:
    columns = {"columns": {"id": "$row_number", "at": "$publishing_time"}}
    source = Source.model_validate(DECLARED | columns)
    table, text = tmp_path / "people.parquet", tmp_path / "people.csv"
    parquet.write_table(pa.table({"age": [3.0, 4.5], "Job title": ["x", None]}), table)
    text.write_text("age,Job title\n3,x\n4.50,\n")
    ids = [[row["id"] for row in rows(path, source) if not isinstance(row, bytes)] for path in (table, text)]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2


LOANS = read("""\
version: 1
pipeline: loans
entities: {loan: {key: id}}
sources:
  events:
    entity: loan
    id: id
    timestamp: at
    fields:
      ltv: {type: number, from: "Loan / value"}
      income: {type: number}
      sex: {type: category, protected: true}
      note: {type: text, personal: true}
      bad: {type: boolean}
targets: {bad: {from: events.bad, type: binary}}
audit: {groups: {sex: {}}}
""")


@pytest.mark.parametrize(
    ("header", "lacks"),
    [
        ("id,at,Loan / value,income,sex,note,bad", []),
        ("id,at,Loan / value,income,sex", []),
        ("id,at,income,sex,note,bad", ["Loan / value"]),
        ("id,at,Loan / value,note,bad", ["income", "sex"]),
    ],
)
def test_a_table_without_a_column_that_is_read_is_published_only_where_somebody_says_so(
    tmp_path: Path, header: str, lacks: list[str]
) -> None:
    """Its rows would keep their ids: the right file, published afterwards, would change nothing."""
    path = tmp_path / "loans.csv"
    path.write_text(f"{header}\n" + ",".join("1" for _ in header.split(",")) + "\n")
    found = [row for row in rows(path, LOANS.sources["events"]) if not isinstance(row, bytes)]
    assert sorted(lacking(path, found, LOANS, "events")) == sorted(lacks)
    complete(path, found, LOANS, "events", without=lacks)
    complete(path.with_suffix(".jsonl"), found, LOANS, "events", without=())
    if lacks:
        with pytest.raises(Invalid) as caught:
            complete(path, found, LOANS, "events", without=lacks[:-1])
        role = "a group of the audit" if lacks[-1] == "sex" else "a feature"
        assert f"column `{lacks[-1]}` is not in the file: it is {role}" in str(caught.value)
        assert f"--without {lacks[-1]}" in str(caught.value).replace("'", "")
