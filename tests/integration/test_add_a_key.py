"""`docs/add-a-key.md`: on a copy, its key is taken, refused in words and in the reference, and pipelines
of the last release keep their bytes; without `exclude_if` their test fails, and says why.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from penstock.testing.checkout import ROOT, change, copied_members, environment, run_tests

PAGE = "docs/add-a-key.md"
FILE = "libs/contracts/penstock/contracts/pipeline/file.py"
RELEASED = "tests/contract/test_released.py"
LEFT_OUT = ', exclude_if=lambda said: said == 1)\n    """Rows that a run'

TAKEN = """
from penstock.contracts.load import BadPipeline, read
from penstock.contracts.reference import reference
from penstock.testing.lending import PIPELINE_TEXT

assert "| `least_rows` | a whole number | `1` | Rows that a run learns from at least. |" in reference()
wanted = PIPELINE_TEXT + "training: {least_rows: %s}\\n"
assert read(wanted % 500).training.least_rows == 500
assert "least_rows" in read(wanted % 500).model_dump_json()
assert "least_rows" not in read(PIPELINE_TEXT).model_dump_json()
try:
    read(wanted % 0)
except BadPipeline as refused:
    assert "training.least_rows" in str(refused), refused
else:
    raise SystemExit("no row was taken")
"""

pytestmark = pytest.mark.process("unhurried")


@pytest.fixture
def house(tmp_path: Path) -> Path:
    house = copied_members(tmp_path, ("libs/contracts", "tests/contract"))
    assert change((ROOT / PAGE).read_text(), house) == {FILE}
    return house


def test_the_pages_key_is_taken_and_changes_no_pipeline_that_is_stored(house: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TAKEN], env=environment(house), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    code, said = run_tests(house, RELEASED, "-k", "written_as_it_was")
    assert code == 0, said


def test_a_key_that_is_always_written_is_found_and_the_rule_is_named(house: Path) -> None:
    text = (house / FILE).read_text()
    assert text.count(LEFT_OUT) == 1
    (house / FILE).write_text(
        text.replace(LEFT_OUT, LEFT_OUT.replace(", exclude_if=lambda said: said == 1", ""))
    )
    code, said = run_tests(house, RELEASED, "-k", "written_as_it_was")
    assert code == 1, said
    assert "a key is left out while it has its default: docs/add-a-key.md" in said
