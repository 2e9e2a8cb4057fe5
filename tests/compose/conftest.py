"""`served_by_compose` is to the compose stack what `served` is to the embedded one: one pipeline
for all tests of a session.
"""

import pytest
from census import Served, serve

from penstock.testing.compose import ComposeUnderTest


@pytest.fixture(scope="session")
def served_by_compose(compose: ComposeUnderTest) -> Served:
    """Published, trained, audited, promoted and served, by the stack as docker-compose.yml has it."""
    return serve(compose.client)
