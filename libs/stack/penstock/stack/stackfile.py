"""Addresses and ports of a running stack: `$PENSTOCK_HOME/stack.json`, written by `up`, read by
`down`, `status` and every client.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from penstock.contracts.errors import NotFound
from penstock.stack.supervisor import socket_folder

FILE = "stack.json"


class StackFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    home: Path
    """Absolute."""
    endpoint: str
    """Address of the front door: host:port, as all addresses here."""
    kafka: str
    services: dict[str, str]
    triton_grpc: str
    triton_http: str
    triton_metrics: str
    door_admin: str
    """Address of Envoy's administration."""
    ports: dict[str, int]
    """Ports by the names of `penstock.stack.ports`; kept for the next `up`."""

    @classmethod
    def of(cls, home: Path, ports: dict[str, int], services: tuple[str, ...]) -> Self:
        def at(name: str) -> str:
            return f"127.0.0.1:{ports[name]}"

        return cls(
            home=home,
            endpoint=at("door"),
            kafka=at("kafka"),
            services={service: at(service) for service in services},
            triton_grpc=at("triton_grpc"),
            triton_http=at("triton_http"),
            triton_metrics=at("triton_metrics"),
            door_admin=at("door_admin"),
            ports=ports,
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


def key(home: Path) -> str:
    """Name of a stack among those of one machine: in its socket and its shared-memory regions."""
    return hashlib.sha256(os.fsencode(home)).hexdigest()[:12]


def socket(home: Path) -> Path:
    return socket_folder(key(home)) / "supervisor.sock"


def shared_memory(home: Path) -> str:
    return f"penstock_{key(home)}_"
