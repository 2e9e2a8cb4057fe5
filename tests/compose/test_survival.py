"""Whatever happens to one container, the stack comes back by itself, and nothing is lost or doubled.

Each failure is caused under a steady 200 events/s and two clients that ask for predictions without pause.
"""

from __future__ import annotations

import time

import pytest
from census import Served
from load import Publishing, under_load

from penstock.testing.compose import SERVICES, ComposeUnderTest
from penstock.testing.wait import until

pytestmark = pytest.mark.compose

STORES = ("kafka", "redis", "postgres", "triton")
CONTAINERS = (*STORES, "gateway", "envoy", *SERVICES)
FIRST = {"triton", "ingest"}
"""Of those that may be killed; the others, and what takes longer, are for `make test-slow`."""
CUT_S = 30
BACK_WITHIN_S = 120


def works_whole(served: Served, stack: ComposeUnderTest, name: str, published: Publishing) -> None:
    """Every service does its part: a model of what arrived is trained, audited, promoted and
    served; an entity is known online.
    """
    stack.ready(within=BACK_WITHIN_S)
    version = served.journey.train(name)
    served.journey.until_served(name, version.digest)
    person = str(served.events[0]["person_id"])
    until(
        lambda: served.client.predictions.by_entity(name, person).prediction,
        within=60,
        what=f"{person} is predicted from online features",
    )


@pytest.mark.parametrize(
    "container", [pytest.param(one, marks=() if one in FIRST else pytest.mark.slow) for one in CONTAINERS]
)
def test_a_killed_container_comes_back(
    served_by_compose: Served, compose: ComposeUnderTest, container: str
) -> None:
    """kill -9 of its main process."""
    name = f"killed-{container}"
    before = compose.inspect(container)["RestartCount"]
    with under_load(served_by_compose, name) as (published, _):
        compose.kill(container)
        until(
            lambda: compose.inspect(container)["RestartCount"] > before,
            within=30,
            what=f"{container} is started again",
        )
        compose.healthy(container, within=BACK_WITHIN_S)
        compose.ready(within=BACK_WITHIN_S)
    works_whole(served_by_compose, compose, name, published)


@pytest.mark.slow
@pytest.mark.parametrize("store", STORES)
def test_a_store_that_is_stopped_and_started_is_waited_for(
    served_by_compose: Served, compose: ComposeUnderTest, store: str
) -> None:
    name = f"stopped-{store}"
    with under_load(served_by_compose, name) as (published, _):
        with compose.without(store):
            time.sleep(10)  # how long it is away is the test
        compose.healthy(store, within=BACK_WITHIN_S)
        compose.ready(within=BACK_WITHIN_S)
    works_whole(served_by_compose, compose, name, published)


@pytest.mark.slow
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_cut_from_the_network_for_30_s_goes_on(
    served_by_compose: Served, compose: ComposeUnderTest, service: str
) -> None:
    name = f"cut-{service}"
    with under_load(served_by_compose, name) as (published, _):
        with compose.cut(service):
            time.sleep(CUT_S)  # how long it is away is the test
        compose.ready(within=BACK_WITHIN_S)
    works_whole(served_by_compose, compose, name, published)
