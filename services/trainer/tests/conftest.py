from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.testing.loans import Loans


@pytest.fixture
def loans(tmp_path: Path, root: str) -> Iterator[Loans]:
    made = Loans(tmp_path, root)
    yield made
    made.close()
