"""The client of Triton, against one that does not answer."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from tritonclient.grpc.service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

from penstock.contracts.errors import Unavailable
from penstock_inference.serving import triton
from penstock_inference.serving.triton import Triton


class _Hanging(GRPCInferenceServiceServicer):  # type: ignore[misc]
    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        await asyncio.Event().wait()


async def test_a_load_that_does_not_end_is_said_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "LOAD_S", 0.2)
    server = grpc.aio.server()
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    add_GRPCInferenceServiceServicer_to_server(_Hanging(), server)
    await server.start()
    async with Triton(address) as client:
        with pytest.raises(Unavailable, match=r"has not loaded loans within 0\.2 s.*See Triton's log"):
            await client.load("loans")
    await server.stop(None)
