"""`services/ingest/README.md`: the format it adds decodes, rejects in words, and owns its keys."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from penstock.testing.checkout import ROOT, copied_members, environment, follow

SOURCES = "libs/contracts/penstock/contracts/pipeline/sources.py"
CSV = "libs/contracts/penstock/contracts/formats/csv.py"

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    house = copied_members(tmp_path_factory.mktemp("house"), ("libs/contracts",))
    touched = follow("services/ingest/README.md", house, union="Format", keys=SOURCES)
    assert touched == {SOURCES, CSV}  # no third file to touch
    ran = subprocess.run(
        [sys.executable, ROOT / "tests/integration/new_format.py"],
        env=environment(house),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_events_are_records_or_rejects(told: Any) -> None:
    good, missing, no_number, outside, short, empty, no_text = told["answers"]
    assert good == ["e1", {"x": 2.5, "good": True}]
    assert missing == ["e2", {"x": None, "good": False}]
    assert no_number == ["wrong_type", "`x` must be a number, not a text"]
    assert outside[0] == "out_of_range"
    assert short == no_text == ["not_json", "the event is no line of 5 cells"]
    assert empty == ["not_json", "the message has no value"]


def test_events_are_keyed_by_their_entity(told: Any) -> None:
    assert told["keys"] == ["r1", "r1", "r1", "r1", "", ""]


def test_its_keys_belong_to_it(told: Any) -> None:
    alone, misspelt, untyped, unknown, other = told["problems"]
    assert [problem.split("  ", 1)[1] for problem in (*alone, *misspelt, *untyped, *unknown)] == [
        "sources.rows.format: input should be an object, not 'csv'",
        "sources.rows.format.delimitre: no key `delimitre`; did you mean `delimiter`?",
        (
            "sources.rows.format.columns: `columns` is for `type: csv` and means nothing with `type: json`;"
            " there is `type`"
        ),
        "sources.rows.format.type: `csf` is not allowed; did you mean `csv`?",
    ]
    assert other == []


def test_its_keys_are_in_the_reference(told: Any) -> None:
    assert "| `format` | a mapping by `type`, or `json` alone | `type: json` |" in told["reference"]
    assert (
        "| `columns` | a list of texts | **required** | Names of the cells, in order. |" in told["reference"]
    )
