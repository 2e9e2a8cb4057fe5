"""What the door says of services that are away, and of names that nobody has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from penstock.contracts.errors import NotFound
from penstock.runtime import ports
from penstock.status.v1 import status_pb2
from penstock.testing.broker import free_ports
from penstock_inference.door.services import OPEN_INFERENCE, DoorServices, owners
from penstock_inference.serving.triton import Triton

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
CONTEXT: Any = None


@pytest.fixture
async def alone() -> AsyncIterator[DoorServices]:
    """Nothing answers."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    async with grpc.aio.insecure_channel(address) as channel, Triton(address) as triton:
        yield DoorServices(dict.fromkeys(ports.SERVICES, channel), triton)


def test_every_service_has_its_owner() -> None:
    assert set(owners().values()) == set(ports.SERVICES)
    assert owners()["penstock.feature_store.v1.FeatureStoreService"] == "feature_store"


@pytest.mark.parametrize("name", ["", OPEN_INFERENCE, "penstock.trainer.v1.TrainerService"])
async def test_who_is_away_does_not_serve(alone: DoorServices, name: str) -> None:
    assert (await alone.check(health_pb2.HealthCheckRequest(service=name), CONTEXT)).status == NOT_SERVING


async def test_a_name_that_nobody_has(alone: DoorServices) -> None:
    with pytest.raises(NotFound, match=r"no service .* at this door"):
        await alone.check(health_pb2.HealthCheckRequest(service="penstock.trainer"), CONTEXT)
    watched = alone.watch(health_pb2.HealthCheckRequest(service="penstock.trainer"), CONTEXT)
    assert (await anext(aiter(watched))).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


async def test_status_names_who_does_not_answer(alone: DoorServices) -> None:
    services = (await alone.get_status(status_pb2.GetStatusRequest(), CONTEXT)).services
    assert [service.service for service in services] == list(ports.SERVICES)
    assert services[0].waiting[0].why == "it does not answer: UNAVAILABLE"
    with pytest.raises(NotFound, match="no service 'trainers'"):
        await alone.get_status(status_pb2.GetStatusRequest(service="trainers"), CONTEXT)
