from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.testing.loans import Loans

sys.path.insert(0, str(Path(__file__).parent))  # `workers_suite`, which every adapter passes


@pytest.fixture
def loans(tmp_path: Path, root: str) -> Iterator[Loans]:
    made = Loans(tmp_path, root)
    yield made
    made.close()
