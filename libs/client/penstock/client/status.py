"""The state of each service, as it reports it."""

from __future__ import annotations

from penstock.client.connection import Connection
from penstock.status.v1 import status_pb2 as status
from penstock.status.v1 import status_pb2_grpc


class Status:
    """`penstock.status`: who is ready, and what the others wait for."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = status_pb2_grpc.StatusServiceStub(connection.channel)

    def services(self) -> list[status.ServiceStatus]:
        """Services behind the door, ready or waiting. Raises Unavailable while the door is away."""
        return list(
            self._connection.call(self._stub.GetStatus, status.GetStatusRequest(), timeout=5).services
        )
