"""`attacked`, `census`, `load`, `wire`, `compatibility` and `files` are modules beside the tests, and
`benchmarks` a package of the root; `served` is one pipeline for all tests of a session, on the
embedded stack, and `served_by_compose` on the one in containers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from census import Served, Succession

    from penstock.testing.compose import ComposeUnderTest
    from penstock.testing.stack import StackUnderTest

HERE = Path(__file__).parent
sys.path[:0] = [
    str(HERE),
    str(HERE.parent),
    *(str(HERE / name) for name in ("attack", "contract", "observability")),
]


@pytest.fixture(scope="session")
def served(stack: StackUnderTest) -> Served:
    """Published, trained, audited, promoted and served."""
    from census import serve  # found through the path above; a second of every run, were it imported there

    return serve(stack.client)


@pytest.fixture(scope="session")
def served_by_compose(compose: ComposeUnderTest) -> Served:
    """Published, trained, audited, promoted and served, by the stack as docker-compose.yml has it."""
    from census import serve

    return serve(compose.client)


@pytest.fixture(scope="session")
def trained_twice(served: Served) -> Succession:
    from census import succession

    return succession(served)


@pytest.fixture
def rolling(served: Served, trained_twice: Succession) -> Succession:
    """A pipeline whose second version serves, and whose first is there to roll back to."""
    serving = served.client.predictions.serving().pipelines
    if trained_twice.second.digest not in {one.digest for one in serving}:  # another test rolled back
        served.client.models.promote(trained_twice.second.digest, by="test")
        served.journey.until_served(trained_twice.name, trained_twice.second.digest)
    return trained_twice
