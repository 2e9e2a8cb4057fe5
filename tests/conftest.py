"""`census`, `load`, `compatibility` and `files` are modules beside the tests; `served` is one
pipeline for all tests of a session.
"""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "contract"), str(HERE / "observability")]

from census import Served, Succession, serve, succession  # noqa: E402  found through the path above

from penstock.testing.stack import StackUnderTest  # noqa: E402


@pytest.fixture(scope="session")
def served(stack: StackUnderTest) -> Served:
    """Published, trained, audited, promoted and served."""
    return serve(stack.client)


@pytest.fixture(scope="session")
def rolling(served: Served) -> Succession:
    """A pipeline with a version to roll back to."""
    return succession(served)
