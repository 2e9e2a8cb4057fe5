"""The answer with online features: bytes from the store to the wire, and nothing else on the way."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from penstock.feature_store.v1 import feature_store_pb2 as pb
from penstock.feature_store.v1 import feature_store_pb2_grpc
from penstock.runtime import metrics, rpc
from penstock_feature_store import servicer as module
from penstock_feature_store.servicer import Servicer, add_to_server

ANSWER = pb.GetOnlineFeaturesResponse(fields=["a.b"], entities=[pb.EntityFeatures(entity="e")])


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, exported: bool | None) -> list[Any]:
    """Measurements of a call that was answered with ANSWER; `exported`: whether somebody reads them, None
    as it is by itself.
    """
    measured = list[Any]()

    async def found(*_: Any) -> bytes:
        return ANSWER.SerializeToString()

    async def call() -> pb.GetOnlineFeaturesResponse:
        nothing: Any = None
        pipelines: Any = SimpleNamespace(get=lambda _: SimpleNamespace(features=["a.b"]))
        owns: Any = SimpleNamespace(ownership=SimpleNamespace(mine=True))
        servicer = Servicer(pipelines, nothing, nothing, nothing, owns, online=False)
        methods, server = rpc.Methods(), rpc.server()
        add_to_server(servicer, methods)
        server.add_generic_rpc_handlers((methods,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = feature_store_pb2_grpc.FeatureStoreServiceStub(channel)
            answer: Any = await stub.GetOnlineFeatures(pb.GetOnlineFeaturesRequest(pipeline="p"), timeout=10)
        await server.stop(None)
        return answer

    if exported is not None:
        monkeypatch.setattr(module, "exported", lambda: exported)
    monkeypatch.setattr(module, "features_of", found)
    monkeypatch.setattr(module, "_measure", lambda *told: measured.append(told))
    assert asyncio.run(call()) == ANSWER
    return measured


@pytest.mark.parametrize("exported", [None])
def test_bytes_go_as_they_are_and_nobody_counts_where_nobody_reads(measured: list[Any]) -> None:
    assert not metrics.exported()
    assert measured == []


@pytest.mark.parametrize("exported", [True])
def test_an_answer_is_counted_where_somebody_reads(measured: list[Any]) -> None:
    [(pipeline, _, answer)] = measured
    assert (pipeline, answer) == ("p", ANSWER.SerializeToString())
