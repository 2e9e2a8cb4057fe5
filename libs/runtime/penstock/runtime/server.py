"""The gRPC server of a service: health, reflection and status answer from its start, whatever the
service waits for; its own servicers once it lets calls in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from penstock.runtime import rpc
from penstock.runtime.readiness import Readiness
from penstock.runtime.status import StatusServicer
from penstock.status.v1 import status_pb2, status_pb2_grpc

log = structlog.get_logger(__name__)

STOP_GRACE_S = 8.0
SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


class Server:
    """Closed until `let_in`: each method of the service's own is UNAVAILABLE, with what it waits for."""

    def __init__(self, service: str, readiness: Readiness, names: Iterable[str]) -> None:
        """`names`: full names of the service's own gRPC services."""
        self.status = StatusServicer(service, readiness, datetime.now(UTC))
        self._readiness = readiness
        self._names = list(names)
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()
        self._always = rpc.Methods()
        self._methods = rpc.Methods(
            lambda: "; ".join(f"{wait.thing}: {wait.why}" for wait in readiness.waiting)
        )
        status = status_pb2.DESCRIPTOR.services_by_name["StatusService"].full_name
        names = [*self._names, status, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflected = reflection.aio.ReflectionServicer(names)
        self.add(health_pb2_grpc.add_HealthServicer_to_server, self._health, always=True)
        self.add(status_pb2_grpc.add_StatusServiceServicer_to_server, self.status, always=True)
        self.add(reflection_pb2_grpc.add_ServerReflectionServicer_to_server, reflected, always=True)

    def add(self, register: Callable[[Any, Any], None], servicer: object, *, always: bool) -> None:
        """`always`: it is called from the first moment on."""
        register(servicer, self._always if always else self._methods)

    async def listen(self, address: str) -> None:
        """Answers calls from here on, though perhaps not yet by the service's own servicers. Does
        nothing where it listens already.
        """
        if self._server is None:
            self._server = rpc.server()
            self._server.add_generic_rpc_handlers((self._always, self._methods))
            await self._health.set("", NOT_SERVING)
            self._server.add_insecure_port(address)
            await self._server.start()
            log.info("listening", address=address)

    def let_in(self) -> None:
        """Has calls answered by the service's own servicers."""
        self._methods.open = True

    async def follow_readiness(self) -> None:
        """Health is SERVING from here on while nothing is waited for."""
        loop = asyncio.get_running_loop()
        self._readiness.on_change(lambda _: asyncio.run_coroutine_threadsafe(self._announce(), loop))
        await self._announce()

    async def leave(self) -> None:
        """NOT_SERVING for good; calls are still answered."""
        await self._health.enter_graceful_shutdown()

    async def stop(self) -> None:
        """Finishes the calls in hand, those that take some seconds excepted."""
        if self._server is not None:
            await self._server.stop(STOP_GRACE_S)

    async def _announce(self) -> None:
        """Tells how it is now, not how it was when something changed: changes come from any thread."""
        for name in ("", *self._names):
            await self._health.set(name, SERVING if self._readiness.ready else NOT_SERVING)
