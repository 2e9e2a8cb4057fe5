"""Fixtures; what tests share stands in `support/`."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "support"))  # pytest's importlib mode lets tests share modules in no other way


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that hypothesis may use for many examples."""
    folder = Path(tempfile.mkdtemp(prefix="feature-store-"))
    yield folder
    shutil.rmtree(folder)
