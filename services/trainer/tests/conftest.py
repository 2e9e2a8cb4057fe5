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


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the module of workers that do not as they should."""
    from workers_suite import MODULE  # loads torch, which others here do without

    folder = tmp_path_factory.mktemp("odd")
    (folder / "odd_worker.py").write_text(MODULE)
    return folder


@pytest.fixture
def odd(made: Path) -> Path:
    for left in [*made.glob("*.pid"), *made.glob("died")]:
        left.unlink()
    return made
