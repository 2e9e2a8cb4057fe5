"""Clients of the door: one call over gRPC or HTTP, and many at once for as long as a block lasts."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from penstock.serving.protocol.tensors import grpc_response_of
from penstock.testing.promoting import NAME
from penstock_inference.serving.triton import infer_request

ID = "x-penstock-prediction"


@dataclass(frozen=True)
class Answer:
    id: str | None
    version: int
    decision: str


class Door:
    """The front door at an address. A method raises grpc.RpcError as any client would see it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)])
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def infer(
        self,
        income: float | None = 1.0,
        purpose: str = "car",
        *,
        model: str = NAME,
        version: int | None = None,
        **how: Any,
    ) -> Answer:
        request = infer_request(model, version, [[income]], [[purpose]])
        response, call = self.stub.ModelInfer.with_call(request, timeout=how.pop("timeout", 5), **how)
        headers = dict(call.initial_metadata())
        return Answer(
            headers.get(ID),
            int(response.model_version),
            str(grpc_response_of(response).tensors["decision"].values[0]),
        )

    def http(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection(self.address, timeout=30)
        try:
            connection.request(
                method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
            )
            answer = connection.getresponse()
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()

    def http_infer(
        self, income: float = 1.0, purpose: str = "car", **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        asked = {
            "inputs": [
                {"name": "numbers", "shape": [1, 1], "datatype": "FP64", "data": [income]},
                {"name": "strings", "shape": [1, 1], "datatype": "BYTES", "data": [purpose]},
            ]
        }
        return self.http(
            "POST",
            f"/v2/models/{NAME}/infer",
            json.dumps(asked).encode(),
            content_type="application/json",
            **headers,
        )


@dataclass
class Load:
    """What came of the calls."""

    answered: list[Answer] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@contextmanager
def load(address: str, clients: int = 4) -> Iterator[Load]:
    """`clients` that call one after the other while the block lasts; each keeps to its connection,
    and comes again after a failure.
    """
    found = Load()
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(asyncio.run, _call_until(address, clients, stop, found))
        try:
            yield found
        finally:
            stop.set()
            running.result(30)


async def _call_until(address: str, clients: int, stop: threading.Event, found: Load) -> None:
    options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        request = infer_request(NAME, None, [[1.0]], [["car"]])

        async def client() -> None:
            while not stop.is_set():
                call = infer(request, timeout=5)
                try:
                    response = await call
                    headers = dict(await call.initial_metadata())
                    found.answered.append(Answer(str(headers[ID]), int(response.model_version), ""))
                except grpc.aio.AioRpcError as error:
                    found.failed.append(f"{error.code().name}: {error.details()}")
                    await asyncio.sleep(0.02)  # a client's pause before it asks again

        await asyncio.gather(*(client() for _ in range(clients)))
