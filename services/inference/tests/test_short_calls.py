"""Calls to the feature store and to the door: one connection, no grpc.aio, and the same errors as by it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import uvloop
from hpack import Encoder
from hypothesis import given
from hypothesis import strategies as st

from penstock.contracts.error_details import error_of_call
from penstock.contracts.errors import NotFound, Unavailable
from penstock.feature_store.v1 import feature_store_pb2 as fs
from penstock.feature_store.v1 import feature_store_pb2_grpc
from penstock.runtime import rpc
from penstock.testing import lending
from penstock.testing.wait import until_async
from penstock_inference import short
from penstock_inference.headers import block, field_of, fields_of
from penstock_inference.short import Short
from penstock_inference.unary import SHORT_BYTES

METHOD = "/penstock.feature_store.v1.FeatureStoreService/GetOnlineFeatures"
Request = fs.GetOnlineFeaturesRequest
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=30).filter(
    lambda name: not name.endswith("-bin")
)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80)


class Features(feature_store_pb2_grpc.FeatureStoreServiceServicer):
    """Answers as the pipeline's name says, and keeps who asked, and with which metadata."""

    def __init__(self) -> None:
        self.peers: list[str] = []
        self.traces: list[Any] = []

    async def GetOnlineFeatures(
        self, request: Request, context: grpc.aio.ServicerContext[Any, Any]
    ) -> fs.GetOnlineFeaturesResponse:
        self.peers.append(context.peer())
        self.traces.append(dict(context.invocation_metadata() or ()).get("traceparent"))
        match request.pipeline:
            case "unknown":
                raise NotFound("no pipeline is called so", where="pipeline", remedy="Apply it")
            case "busy" if len(self.peers) == 1:
                raise Unavailable("not yet")
            case "begun":
                await context.send_initial_metadata((("x-begun", "yes"),))
                raise Unavailable("not any more")
        await context.send_initial_metadata((("x-asked", request.pipeline),))
        return fs.GetOnlineFeaturesResponse(fields=request.fields)


@asynccontextmanager
async def asked() -> AsyncIterator[tuple[Short, Features, list[Any]]]:
    """A Short before a real server, what that was asked, and the calls that went by grpc.aio."""
    features, by_channel, made = Features(), list[Any](), rpc.server()
    feature_store_pb2_grpc.add_FeatureStoreServiceServicer_to_server(features, made)
    address = f"127.0.0.1:{made.add_insecure_port('127.0.0.1:0')}"
    await made.start()
    async with rpc.connect(address) as channel:
        stub = feature_store_pb2_grpc.FeatureStoreServiceStub(channel)

        def call(request: Request, **how: Any) -> Any:
            by_channel.append(request)
            return stub.GetOnlineFeatures(request, **how)

        calls = Short(address, METHOD, call, fs.GetOnlineFeaturesResponse.FromString, retried=True)
        yield calls, features, by_channel
        calls.close()
    await made.stop(None)


def run(what: Callable[[Short, Features, list[Any]], Any]) -> None:
    async def running() -> None:
        async with asked() as made:
            await what(*made)

    uvloop.run(running())


def test_a_hundred_calls_take_one_connection_and_none_goes_by_grpc_aio() -> None:
    async def many(calls: Short, features: Features, by_channel: list[Any]) -> None:
        for _ in range(100):
            reply = await calls(Request(pipeline="loans", fields=["a"]), 10, header="x-asked")
            assert (reply.message.fields, reply.header) == (["a"], "loans")
        assert len(set(features.peers)) == 1
        assert by_channel == []

    run(many)


def test_a_trace_goes_with_the_call() -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-00"

    async def traced(calls: Short, features: Features, _: list[Any]) -> None:
        await calls(Request(pipeline="loans"), 10, [("traceparent", trace)])
        assert features.traces == [trace]

    run(traced)


def test_an_error_arrives_whole() -> None:
    async def fails(calls: Short, _: Features, by_channel: list[Any]) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await calls(Request(pipeline="unknown"), 10)
        told = error_of_call(raised.value)
        assert isinstance(told, NotFound)
        assert (told.message, told.where, told.remedy) == ("no pipeline is called so", "pipeline", "Apply it")
        assert by_channel == []

    run(fails)


def test_what_is_unavailable_is_tried_again_unless_the_answer_had_begun() -> None:
    async def again(calls: Short, features: Features, by_channel: list[Any]) -> None:
        await calls(Request(pipeline="busy"), 10)
        assert len(by_channel) == 1
        asked = len(features.peers)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await calls(Request(pipeline="begun"), 10)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert len(features.peers) == asked + 1

    run(again)


def test_a_large_one_goes_by_grpc_aio() -> None:
    async def large(calls: Short, _: Features, by_channel: list[Any]) -> None:
        await calls(Request(pipeline="loans", fields=["x" * SHORT_BYTES]), 10)
        assert len(by_channel) == 1

    run(large)


def test_behind_a_name_the_connection_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one of several replicas had all calls for as long as this process lives."""
    monkeypatch.setattr(short, "RENEW_S", 0.0)
    monkeypatch.setattr(short, "is_ip", lambda _: False)

    async def renewed(calls: Short, features: Features, by_channel: list[Any]) -> None:
        for _ in range(3):
            await calls(Request(pipeline="loans"), 10)
        await until_async(lambda: len(set(features.peers)) == 3)
        assert by_channel == []

    run(renewed)


# -- headers ---------------------------------------------------------------------------------------


@given(st.dictionaries(NAMES, VALUES, max_size=8), NAMES, st.booleans())
def test_one_header_is_read_as_all_are(said: dict[str, str], other: str, coded: bool) -> None:
    encoder = Encoder()
    encoder.header_table_size = 0
    written = encoder.encode([(":status", "200"), *said.items()], huffman=coded)
    for name in (*said, other):
        assert field_of(written, name) == said.get(name)


@given(st.dictionaries(NAMES, VALUES, max_size=8))
def test_what_we_write_is_read(said: dict[str, str]) -> None:
    assert fields_of(block(said.items())) == said


# -- features --------------------------------------------------------------------------------------


def test_an_entitys_features_are_asked_in_the_order_in_which_they_are_kept_together() -> None:
    """In another, the feature store takes each row apart."""
    from penstock.serving.model import Model

    features = {name: {"from": f"applications.{name}"} for name in ("purpose", "income")}
    pipeline = lending.pipeline(features=features)
    inputs = SimpleNamespace(numbers=("income",), strings=("purpose",))
    package = SimpleNamespace(pipeline=pipeline, signature=SimpleNamespace(inputs=inputs))
    model = Model(SimpleNamespace(), package)  # type: ignore[arg-type]
    assert model.asked == ["applications.purpose", "applications.income"]
    assert list(model.references.values()) == model.asked[::-1]  # of the tensors
