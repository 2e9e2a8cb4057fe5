"""Front door as a value: its addresses and files, and how much its log keeps of a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

READ_HEADER: Final = "x-penstock-read"  # of a call over gRPC that the gateway reads before Triton
LARGE_HEADER: Final = "x-penstock-large"  # of a call whose body is longer than KEPT_BYTES
LOGS: Final = "log"  # a folder of its own: Envoy wakes at each change in the one that it watches
LOG_FILE: Final = "predictions.log"
# Largest body that goes into the log; a longer one only passes: a line grows by a third in base64.
KEPT_BYTES: Final = 1 << 20
KEPT_HEAD_BYTES: Final = 4 << 10  # kept of a longer body: enough for the name of the model
# gRPC package under which inference serves health, reflection and status of all services. Nobody
# reaches it by this name from outside.
DOOR_PACKAGE: Final = "penstock.door.v1"


@dataclass(frozen=True)
class Backends:
    """Addresses of what answers inferences: Triton, and the gateway before it."""

    triton: str
    gateway_grpc: str
    gateway_http: str


@dataclass(frozen=True)
class Door:
    """Addresses of the door and of what lies behind it, as host:port; folder of its files."""

    folder: Path
    listen: str
    admin: str  # where inference asks whether Envoy is ready
    backends: Backends
    services: Mapping[str, str]  # address by name of the service
    admin_listen: str = ""  # of Envoy's administration; by default `admin`
    # Where Envoy answers others for readiness and metrics, and nothing else of its administration;
    # by default nowhere.
    health_listen: str = ""
    traces: str = ""  # collector (OTLP over gRPC) of a span for each call; by default none

    @property
    def logs(self) -> Path:
        """Folder of the log that Envoy writes and of those that were rotated."""
        return self.folder / LOGS

    @property
    def log(self) -> Path:
        return self.logs / LOG_FILE

    @property
    def administration(self) -> str:
        """Address at which Envoy's administration listens."""
        return self.admin_listen or self.admin
