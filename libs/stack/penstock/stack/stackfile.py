"""Addresses and ports of a running stack: `$PENSTOCK_HOME/stack.json`, written by `up`, read by
`down`, `status` and every client.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from penstock.contracts.errors import NotFound

FILE = "stack.json"


class StackFile(BaseModel):
    """Addresses, each host:port, and the ports by the names of `penstock.stack.ports`. `home` is
    absolute. Triton, which takes models with code in them, the gateway, which records nothing, and
    `door_admin`, Envoy's administration, which can close the door, are at sockets that only this
    user reaches: `unix:` and a path.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    home: Path
    endpoint: str
    kafka: str  # without a password
    kafka_services: str  # with one
    services: dict[str, str]
    triton_grpc: str
    gateway_grpc: str
    gateway_http: str
    triton_metrics: str
    door_admin: str
    ports: dict[str, int]

    @classmethod
    def of(cls, home: Path, ports: Mapping[str, int], services: tuple[str, ...]) -> Self:
        at = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        sockets = f"unix:{socket(home).parent}"
        return cls(
            home=home,
            endpoint=at["door"],
            kafka=at["kafka"],
            kafka_services=at["kafka_services"],
            services={service: at[service] for service in services},
            triton_grpc=f"{sockets}/triton:8001",  # Triton puts a port behind whatever address it is given
            gateway_grpc=f"{sockets}/gateway-grpc",
            gateway_http=f"{sockets}/gateway-http",
            triton_metrics=at["triton_metrics"],
            door_admin=f"{sockets}/envoy",
            ports=dict(ports),
        )

    @classmethod
    def read(cls, home: Path) -> Self:
        """Reads the file of a home. Raises NotFound where no stack is up, or its file is broken."""
        path = home.resolve() / FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError as error:
            raise NotFound(
                "no stack is up here", where=str(path), remedy="Run `penstock up`, or set PENSTOCK_HOME"
            ) from error
        except ValidationError as error:
            raise NotFound(
                "the stack's file is broken",
                where=str(path),
                remedy="Run `penstock down`, then `penstock up`",
            ) from error

    def write(self) -> None:
        path = self.home / FILE
        beside = path.with_name(f".{FILE}.{os.getpid()}")
        beside.write_text(self.model_dump_json(indent=1) + "\n")
        beside.replace(path)


def _key(home: Path) -> str:
    """Name of a stack among those of one machine: in its socket and its shared-memory regions."""
    return hashlib.sha256(os.fsencode(home)).hexdigest()[:12]


def socket(home: Path) -> Path:
    """Socket of the stack's supervisord, in a folder of this user's own with a short path: a socket's
    has at most 107 bytes, PENSTOCK_HOME may have more.
    """
    return Path(f"/tmp/penstock-{os.getuid()}") / _key(home) / "supervisor.sock"  # noqa: S108


def shared_memory(home: Path) -> str:
    return f"penstock_{_key(home)}_"
