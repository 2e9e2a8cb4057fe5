"""Searches on trials that are really trained, against chance; some ten minutes of a processor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[3] / "benchmarks" / "search.py"


@pytest.mark.slow
@pytest.mark.process
def test_a_search_finds_what_chance_finds_in_as_many_of_400_trials(tmp_path: Path) -> None:
    asked = ["--json", "--kept", str(tmp_path / "kept.jsonl"), "--seeds", "6", "--only", "tpe", "genetic"]
    done = subprocess.run([sys.executable, PROGRAM, *asked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    missed = [found for found in json.loads(done.stdout.splitlines()[-1]) if not found["kept"]]
    assert not missed
