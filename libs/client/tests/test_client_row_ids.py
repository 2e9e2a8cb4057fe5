"""Ids that publishing makes: a row is itself wherever it stands, and another one once it differs."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from penstock.client.declared import declared
from penstock.client.files import rows
from penstock.contracts.pipeline import Source

SOURCE = Source.model_validate(
    {
        "entity": "person",
        "id": "row",
        "timestamp": "at",
        "missing": ["NA"],
        "columns": {"row": "$row_content", "at": "$publishing_time"},
        "fields": {
            "years": {"type": "number", "from": "education-num"},
            "code": {"type": "category"},
            "married": {"type": "boolean"},
        },
    }
)


def ids(path: Path, source: Source = SOURCE) -> list[object]:
    return [row["row"] for row in rows(path, source) if not isinstance(row, bytes)]


def test_rows_in_another_order_keep_their_ids_and_a_corrected_one_is_new(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    lines = ["9,7,yes", "9,7,yes", "9,8,yes", "10,7,no"]
    path.write_text("\n".join(["education-num,code,married", *lines]))
    before = ids(path)
    assert len(set(before)) == len(lines), "equal rows stay as many as they are"
    path.write_text("\n".join(["education-num,code,married", *reversed(lines)]))
    assert set(ids(path)) == set(before)
    path.write_text("\n".join(["education-num,code,married", *lines[:3], "11,7,no"]))
    assert len({*ids(path)} - {*before}) == 1


def test_a_row_has_one_id_whatever_file_it_comes_from(tmp_path: Path) -> None:
    text, lines, table = (tmp_path / f"people.{ending}" for ending in ("csv", "jsonl", "parquet"))
    text.write_text("education-num,code,married\n9,7,yes\n4.50,NA,\n")
    lines.write_text('{"married": true, "code": "7", "education-num": 9.0}\n{"education-num": 4.5}\n')
    years = [Decimal("9.00"), Decimal("4.50")]
    parquet.write_table(pa.table({"code": [7, None], "education-num": years, "married": [1, None]}), table)
    assert ids(text) == ids(lines) == ids(table)


def test_a_time_of_the_row_is_part_of_it_and_one_of_publishing_is_not(tmp_path: Path) -> None:
    path, other = tmp_path / "people.csv", tmp_path / "people.parquet"
    path.write_text("at,code\n2026-01-31T12:00:00Z,a\n2026-02-01T12:00:00Z,a\n")
    timed = SOURCE.model_copy(update={"columns": {"row": "$row_content"}})
    noon = [datetime(2026, 1, 31, 12, tzinfo=UTC), datetime(2026, 2, 1, 12, tzinfo=UTC)]
    parquet.write_table(pa.table({"at": noon, "code": ["a", "a"]}), other)
    first, second = (str(one).partition("-")[0] for one in ids(path, timed))
    assert first != second
    assert ids(path, timed) == ids(other, timed)
    first, second = (str(one).partition("-")[0] for one in ids(path))
    assert first == second


@pytest.mark.parametrize(
    ("one", "other"), [("007", "7"), ("a", "A"), ("1e2", "100"), ("2026-01-01", "20260101")]
)
def test_codes_that_only_look_alike_are_two(one: str, other: str) -> None:
    first, second = declared([{"code": one}, {"code": other}], SOURCE, textual=True)
    assert not isinstance(first, bytes)
    assert not isinstance(second, bytes)
    assert (str(first["row"])[-2:], str(second["row"])[-2:]) == ("-1", "-1")
    assert first["row"] != second["row"]


@given(
    st.lists(
        st.fixed_dictionaries({"code": st.text(min_size=1, max_size=2), "married": st.booleans()}),
        max_size=20,
    ),
    st.randoms(use_true_random=False),
)
def test_no_order_makes_a_new_row(found: list[dict[str, object]], draw: random.Random) -> None:
    def named(some: list[dict[str, object]]) -> list[tuple[str, str]]:
        events = (event for event in declared(some, SOURCE, textual=False) if not isinstance(event, bytes))
        return sorted((str(event["row"]), str(sorted({**event, "at": ""}.items()))) for event in events)

    shuffled = found.copy()
    draw.shuffle(shuffled)
    assert named(shuffled) == named(found)


def test_ids_by_number_stay_as_they_were(tmp_path: Path) -> None:
    """Pipelines in use would see all their rows again as new ones."""
    path = tmp_path / "people.csv"
    path.write_text("education-num,code\n9,7\n9,7\n")
    numbered = SOURCE.model_copy(update={"columns": {"row": "$row_number", "at": "$publishing_time"}})
    assert ids(path, numbered) == ["1-b912ab1b", "2-b912ab1b"]
    assert ids(path) == ["2142be18e5286c7b5902-1", "2142be18e5286c7b5902-2"], "nor may these change"
