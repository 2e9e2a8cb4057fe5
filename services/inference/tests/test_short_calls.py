"""Calls to the feature store and to the door: one connection, no grpc.aio, and the same errors as by it."""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import uvloop
from hpack import Encoder
from hpack.table import HeaderTable
from hypothesis import given
from hypothesis import strategies as st

from penstock.contracts.error_details import error_of_call
from penstock.contracts.errors import NotFound, Unavailable
from penstock.feature_store.v1 import feature_store_pb2 as fs
from penstock.feature_store.v1 import feature_store_pb2_grpc
from penstock.runtime import rpc
from penstock.testing import lending
from penstock.testing.wait import PATIENCE_S
from penstock_inference import short, unary
from penstock_inference.headers import block, field_of, fields_of
from penstock_inference.short import Short
from penstock_inference.unary import HEADERS, RESET, SETTINGS, SHORT_BYTES, Unary, connected, frame

METHOD = "/penstock.feature_store.v1.FeatureStoreService/GetOnlineFeatures"
Request = fs.GetOnlineFeaturesRequest
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=30).filter(
    lambda name: not name.endswith("-bin")
)
STATIC = {name.decode() for name, _ in HeaderTable.STATIC_TABLE}
OWN_NAMES = NAMES.filter(lambda name: name not in STATIC)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """None goes by grpc.aio because a machine with much else to do connects slowly."""
    monkeypatch.setattr(unary, "CONNECT_S", 60.0)


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


def test_a_large_one_is_written_once() -> None:
    """Else its bytes were held twice until the answer."""

    async def answer(*_: Any, **how: Any) -> str:
        return "answer"

    large: Any = SimpleNamespace(ByteSize=lambda: SHORT_BYTES + 1)  # and nothing else
    calls = Short("127.0.0.1:1", METHOD, answer, bytes, retried=True)
    assert uvloop.run(calls(large, 10)).message == "answer"


@asynccontextmanager
async def peer(*, answers: bytes = b"", after_s: float = 0.0) -> AsyncIterator[tuple[Short, list[bytes]]]:
    """A Short before a peer that accepts `after_s` seconds later, answers with these bytes and leaves; the
    calls that it was asked. Those that went by grpc.aio are `b"again"`.
    """
    asked = list[bytes]()

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(after_s)  # how long the peer takes
        writer.write(frame(SETTINGS, 0, 0))
        asked.append(await reader.readuntil(b"loans"))
        writer.write(answers)
        writer.write_eof()

    async def again(*_: Any, **how: Any) -> Any:
        asked.append(b"again")

    async with await asyncio.start_server(once, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        calls = Short(f"127.0.0.1:{port}", METHOD, again, bytes, retried=True)
        yield calls, asked
        calls.close()


BEGUN = frame(HEADERS, 0x4, 1, block([("x-begun", "yes")]))
CUT = frame(RESET, 0, 1, struct.pack(">I", 2))


@pytest.mark.parametrize(
    ("answers", "asked_again"),
    [(b"", True), (CUT, True), (BEGUN, False), (BEGUN + CUT, False)],
    ids=["lost", "reset", "lost in mid-answer", "reset in mid-answer"],
)
def test_what_is_cut_off_is_asked_again_unless_its_answer_had_begun(
    answers: bytes, asked_again: bool
) -> None:
    async def cut() -> None:
        async with peer(answers=answers) as (calls, asked):
            if asked_again:
                await calls(Request(pipeline="loans"), 10)
            else:
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await calls(Request(pipeline="loans"), 10)
                assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
            assert asked[1:] == [b"again"] * asked_again

    uvloop.run(cut())


def test_time_spent_connecting_is_the_calls_own() -> None:
    async def slow() -> None:
        async with peer(after_s=0.2) as (calls, asked):
            await calls(Request(pipeline="loans"), 50)
            (left,) = re.findall(rb"grpc-timeout.(\d+)m", asked[0], re.DOTALL)
            assert int(left) <= 49_800

    uvloop.run(slow())


def test_behind_a_name_the_connection_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one of several replicas had all calls for as long as this process lives."""
    monkeypatch.setattr(short, "RENEW_S", 0.0)
    monkeypatch.setattr(short, "is_ip", lambda _: False)

    async def renewed(calls: Short, features: Features, by_channel: list[Any]) -> None:
        async def third() -> bool:
            await calls(Request(pipeline="loans"), 10)
            return len(set(features.peers)) == 3

        async with asyncio.timeout(PATIENCE_S):
            while not await third():
                pass
        assert by_channel == []

    run(renewed)


def test_an_old_connection_does_until_there_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short, "RENEW_S", 0.0)
    monkeypatch.setattr(short, "is_ip", lambda _: False)
    looked_up = list[str]()

    async def first_alone(*where: str) -> Unary:
        looked_up.append(where[0])
        match len(looked_up):
            case 1:
                return await connected(*where)
            case 2:
                raise unary.refused(grpc.StatusCode.UNAVAILABLE, "nobody knows the name")
        await asyncio.Event().wait()
        raise AssertionError("nobody ends the wait")

    monkeypatch.setattr(short, "connected", first_alone)

    async def goes_on(calls: Short, features: Features, by_channel: list[Any]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(5):
                await calls(Request(pipeline="loans"), 10)
        assert len(looked_up) == 3
        assert len(set(features.peers)) == 1
        assert by_channel == []

    run(goes_on)


# -- headers ---------------------------------------------------------------------------------------


@given(st.dictionaries(OWN_NAMES, VALUES, max_size=8), OWN_NAMES, st.booleans())
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
