"""A real Envoy as the door, on free ports of this machine, with the documents that inference writes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from penstock.stack import envoy
from penstock.testing.broker import free_ports
from penstock_inference.door.door import Backends, Door
from penstock_inference.door.files import prepare


def prepared(folder: Path, backends: Backends, services: Mapping[str, str], *, traces: str = "") -> Door:
    """A door whose documents are in `folder`; its health is asked for at a port of its own."""
    listen, admin, health = (f"127.0.0.1:{port}" for port in free_ports(3))
    door = Door(folder, listen, admin, backends, services, health_listen=health, traces=traces)
    prepare(door)
    return door


@contextmanager
def running(door: Door) -> Iterator[subprocess.Popen[bytes]]:
    """Its process, until the end of the block. What it says is in its folder's `envoy.txt`."""
    with (door.folder / "envoy.txt").open("wb") as log:
        process = subprocess.Popen(envoy.command(door.folder), stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
