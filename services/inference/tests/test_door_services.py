"""What the door says of services that are away, and of names that nobody has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from grpc_health.v1 import health, health_pb2
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from tritonclient.grpc import service_pb2
from tritonclient.grpc.service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

from penstock.contracts.errors import NotFound
from penstock.contracts.services import PLATFORM, ServiceDefinition
from penstock.status.v1 import status_pb2
from penstock.testing.broker import free_ports
from penstock_inference.door.services import OPEN_INFERENCE, DoorServices, owners
from penstock_inference.serving.triton import Triton

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
CONTEXT: Any = None


@pytest.fixture
async def alone() -> AsyncIterator[DoorServices]:
    """Nothing answers."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    async with grpc.aio.insecure_channel(address) as channel, Triton(address) as triton:
        yield DoorServices(dict.fromkeys(PLATFORM, channel), triton)


def test_every_service_has_its_owner() -> None:
    assert set(owners().values()) == set(PLATFORM)
    assert owners()["penstock.feature_store.v1.FeatureStoreService"] == "feature_store"
    for name in owners():
        assert descriptor_pool.Default().FindServiceByName(name).full_name == name


def test_a_service_without_a_proto_has_no_name_at_the_door() -> None:
    plain = ServiceDefinition(name="plain", port=9189, memory="512m")
    assert owners({"plain": plain, "trainer": PLATFORM["trainer"]}) == {
        "penstock.trainer.v1.TrainerService": "trainer"
    }


def test_a_name_without_a_proto_is_found_at_the_start() -> None:
    bare = ServiceDefinition(name="bare", grpc="penstock.bare.v1.BareService", port=9189, memory="512m")
    with pytest.raises(ModuleNotFoundError, match=r"penstock\.bare"):
        owners({"bare": bare})


async def test_a_service_without_a_proto_counts_in_the_health_of_all() -> None:
    server, said = grpc.aio.server(), health.aio.HealthServicer()
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    add_HealthServicer_to_server(said, server)
    add_GRPCInferenceServiceServicer_to_server(_LiveTriton(), server)
    await said.set("", SERVING)
    await server.start()
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    async with (
        grpc.aio.insecure_channel(address) as ready,
        grpc.aio.insecure_channel(nobody) as away,
        Triton(address) as triton,
    ):
        door = DoorServices({"trainer": ready, "plain": ready}, triton)
        assert (await door.check(health_pb2.HealthCheckRequest(), CONTEXT)).status == SERVING
        door = DoorServices({"trainer": ready, "plain": away}, triton)
        assert (await door.check(health_pb2.HealthCheckRequest(), CONTEXT)).status == NOT_SERVING
    await server.stop(None)


class _LiveTriton(GRPCInferenceServiceServicer):  # type: ignore[misc]
    async def ServerLive(self, request: Any, context: Any) -> service_pb2.ServerLiveResponse:
        return service_pb2.ServerLiveResponse(live=True)


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
    assert [service.service for service in services] == list(PLATFORM)
    assert services[0].waiting[0].why == "it does not answer: UNAVAILABLE"
    with pytest.raises(NotFound, match="no service 'trainers'"):
        await alone.get_status(status_pb2.GetStatusRequest(service="trainers"), CONTEXT)
