"""`python -m penstock.runtime.health NAME`: a container's health check, by gRPC health at the default
port of a service, or of a site.

Exit code 0 while the service is ready, 1 otherwise; says what it waits for. Imports little: it runs
every few seconds.
"""

from __future__ import annotations

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from penstock.contracts.services import SERVICES
from penstock.runtime import ports
from penstock.status.v1 import status_pb2, status_pb2_grpc

PORTS = {name: service.port for name, service in SERVICES.items()} | {"site": ports.SITE}
WITHIN_S = 3.0


def look(address: str) -> str | None:
    """None while what listens at `address` is ready; else what it waits for. Takes at most some 6 s."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            health = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=WITHIN_S
            )
            if health.status == health_pb2.HealthCheckResponse.SERVING:
                return None
            said = status_pb2_grpc.StatusServiceStub(channel).GetStatus(
                status_pb2.GetStatusRequest(), timeout=WITHIN_S
            )
        except grpc.RpcError as error:
            return f"{address} does not answer: {error.code().name}"
    waiting = [f"{one.thing} ({one.why})" for service in said.services for one in service.waiting]
    return f"waits for {', '.join(waiting) or 'its own start'}"


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in PORTS:
        print(f"usage: python -m penstock.runtime.health {'|'.join(PORTS)}", file=sys.stderr)
        return 2
    problem = look(f"127.0.0.1:{PORTS[arguments[0]]}")
    if problem is not None:
        print(problem)
    return 0 if problem is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
