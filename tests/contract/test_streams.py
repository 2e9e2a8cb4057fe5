"""Streams of the front door: gRPC is told to make none of them again, which it cannot do."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from penstock.client.connection import _STREAMS

PROTO = Path(__file__).resolve().parents[2] / "proto"


def test_no_method_that_streams_has_a_retry_policy() -> None:
    """A new one is to be named in the client: with a policy its call may never end, or abort the process."""
    names = [".".join(path.relative_to(PROTO).with_suffix("").parts) for path in PROTO.rglob("*.proto")]
    services = [
        service
        for name in names
        if name.startswith("penstock.")
        for service in import_module(f"{name}_pb2").DESCRIPTOR.services_by_name.values()
    ]
    assert services
    streaming = {
        (service.full_name, method.name)
        for service in services
        for method in service.methods
        if method.client_streaming or method.server_streaming
    }
    assert set(_STREAMS) == streaming
