"""`attacked` is each kind of stack in turn."""

import pytest
from attacked import Attacked


@pytest.fixture(params=["embedded", pytest.param("compose", marks=pytest.mark.compose)])
def attacked(request: pytest.FixtureRequest) -> Attacked:
    names = {"embedded": ("stack", "served"), "compose": ("compose", "served_by_compose")}[request.param]
    return Attacked(*map(request.getfixturevalue, names))
