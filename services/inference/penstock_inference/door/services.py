"""Health, reflection and status of all services at the door, answered by asking the one that knows.

Envoy rewrites the public paths to `penstock.door.v1.…` (`routes.py`), so that this port goes on
answering for inference alone when it is asked directly.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Mapping
from operator import methodcaller
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from penstock.contracts.errors import NotFound
from penstock.contracts.services import PLATFORM, ServiceDefinition
from penstock.status.v1 import status_pb2, status_pb2_grpc
from penstock_inference.door.door import DOOR_PACKAGE
from penstock_inference.serving.triton import Triton

ASK_S: Final = 1.0  # deadline of a question to a service, in seconds
WATCH_EVERY_S: Final = 1.0  # seconds between two looks for a client that watches health
OPEN_INFERENCE: Final = "inference.GRPCInferenceService"
HEALTH: Final = "grpc.health.v1.Health"
STATUS: Final = "penstock.status.v1.StatusService"

Context = grpc.aio.ServicerContext[Any, Any]

_Health = health_pb2.HealthCheckResponse
_serialized = methodcaller("SerializeToString")


def owners(services: Mapping[str, ServiceDefinition] = PLATFORM) -> dict[str, str]:
    """Names of the services that answer, by full name of their gRPC service; those without one are
    left out. Loads the stubs, from which reflection describes them.
    """
    found = {service.grpc: name for name, service in services.items() if service.grpc}
    for grpc_name, name in found.items():
        importlib.import_module(f"{grpc_name.rpartition('.')[0]}.{name}_pb2")
    return found


class DoorServices:
    """Servicer of the rewritten services; `add_to_server` registers it."""

    def __init__(self, channels: Mapping[str, grpc.aio.Channel], triton: Triton) -> None:
        """`channels`: to every service, inference itself included."""
        self._triton = triton
        self._owners = owners()
        self._health = {service: health_pb2_grpc.HealthStub(channel) for service, channel in channels.items()}
        self._status = {
            service: status_pb2_grpc.StatusServiceStub(channel) for service, channel in channels.items()
        }
        self.reflection = reflection.aio.ReflectionServicer(
            [*self._owners, OPEN_INFERENCE, HEALTH, STATUS, reflection.SERVICE_NAME]
        )

    # -- health ------------------------------------------------------------------------------------

    async def check(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """Answers for one service by its gRPC name; the empty name asks for all at once. Raises
        NotFound.
        """
        return _Health(status=await self._state(request.service))

    async def watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        last = None
        while True:
            try:
                state = await self._state(request.service)
            except NotFound:
                state = _Health.SERVICE_UNKNOWN
            if state != last:
                last = state
                yield _Health(status=state)
            await asyncio.sleep(WATCH_EVERY_S)

    async def _state(self, name: str) -> Any:
        if name == "":
            asked = (self._ask(service, "") for service in self._health)
            states = await asyncio.gather(self._state(OPEN_INFERENCE), *asked)
            return _Health.SERVING if set(states) == {_Health.SERVING} else _Health.NOT_SERVING
        if name in (HEALTH, STATUS, reflection.SERVICE_NAME):
            return _Health.SERVING
        if name == OPEN_INFERENCE:
            return _Health.SERVING if await self._triton.live() else _Health.NOT_SERVING
        if name not in self._owners:
            raise NotFound(f"there is no service {name!r} at this door", remedy="Reflection names them all")
        return await self._ask(self._owners[name], name)

    async def _ask(self, service: str, name: str) -> Any:
        try:
            request = health_pb2.HealthCheckRequest(service=name)
            return (await self._health[service].Check(request, timeout=ASK_S)).status
        except grpc.aio.AioRpcError:
            return _Health.NOT_SERVING

    # -- status ------------------------------------------------------------------------------------

    async def get_status(
        self, request: status_pb2.GetStatusRequest, context: Context
    ) -> status_pb2.GetStatusResponse:
        """Answers for the service that is named, or for all. Raises NotFound."""
        if request.service and request.service not in self._status:
            raise NotFound(
                f"there is no service {request.service!r}",
                remedy=f"Services: {', '.join(sorted(self._status))}",
            )
        wanted = [request.service] if request.service else list(self._status)
        return status_pb2.GetStatusResponse(
            services=await asyncio.gather(*(self._status_of(service) for service in wanted))
        )

    async def _status_of(self, service: str) -> status_pb2.ServiceStatus:
        try:
            answer = await self._status[service].GetStatus(status_pb2.GetStatusRequest(), timeout=ASK_S)
        except grpc.aio.AioRpcError as error:
            return status_pb2.ServiceStatus(
                service=service,
                ready=False,
                waiting=[status_pb2.Waiting(thing=service, why=f"it does not answer: {error.code().name}")],
            )
        said: status_pb2.ServiceStatus = answer.services[0]
        return said


def add_to_server(servicer: DoorServices, server: grpc.aio.Server) -> None:
    handlers = {
        "Health": {
            "Check": grpc.unary_unary_rpc_method_handler(
                servicer.check, health_pb2.HealthCheckRequest.FromString, _serialized
            ),
            "Watch": grpc.unary_stream_rpc_method_handler(
                servicer.watch, health_pb2.HealthCheckRequest.FromString, _serialized
            ),
        },
        "ServerReflection": {
            "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                servicer.reflection.ServerReflectionInfo,
                reflection_pb2.ServerReflectionRequest.FromString,
                _serialized,
            )
        },
        "Status": {
            "GetStatus": grpc.unary_unary_rpc_method_handler(
                servicer.get_status, status_pb2.GetStatusRequest.FromString, _serialized
            )
        },
    }
    server.add_generic_rpc_handlers(
        tuple(
            grpc.method_handlers_generic_handler(f"{DOOR_PACKAGE}.{name}", methods)
            for name, methods in handlers.items()
        )
    )
