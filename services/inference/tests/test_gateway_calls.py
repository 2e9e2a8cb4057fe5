"""Short calls of the gateway against grpc.aio's, on a real gRPC server."""

from __future__ import annotations

import asyncio
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvloop
from tritonclient.grpc import service_pb2, service_pb2_grpc

from penstock.testing.wait import until_async
from penstock_inference import unary
from penstock_inference.gateway.backend import Backend
from penstock_inference.unary import GOAWAY, SETTINGS, frame

Request = service_pb2.ModelInferRequest
Infer = Callable[[Request, float], Awaitable[Any]]
TOO_LARGE = 3 * unary.SHORT_BYTES
pytestmark = pytest.mark.process


class Triton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers with what it was sent, or as the model's name says."""

    def __init__(self) -> None:
        self.begun: list[str] = []  # ids of the calls that sleep
        self.ended: list[str] = []  # of those that were cancelled meanwhile

    async def ModelInfer(self, request: Request, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        name, _, how = request.model_name.partition(":")
        if name == "fail":
            await context.abort(grpc.StatusCode[how], f"a 100 % failure\nof {how}: ÄÖ")
        if name == "sleep":
            self.begun.append(request.id)
            try:
                await asyncio.sleep(float(how))  # how long its answer takes
            except asyncio.CancelledError:
                self.ended.append(request.id)
                raise
        if name == "grow":
            return service_pb2.ModelInferResponse(raw_output_contents=[b"x" * int(how)])
        return service_pb2.ModelInferResponse(id=request.id, raw_output_contents=request.raw_input_contents)


@asynccontextmanager
async def server(address: str, triton: Triton) -> AsyncIterator[grpc.aio.Server]:
    made = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, made)
    made.add_insecure_port(address)
    await made.start()
    try:
        yield made
    finally:
        await made.stop(None)


@asynccontextmanager
async def both(address: str) -> AsyncIterator[tuple[Infer, Infer]]:
    """By the connection for short calls alone, and by grpc.aio."""
    async with Backend(address) as backend:
        by_aio, backend._infer._by_channel = backend._stub.ModelInfer, None
        yield backend.infer, lambda request, within_s: by_aio(request, timeout=within_s)


async def outcome(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details()


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/triton"


def request(name: str, data: bytes = b"", number: int = 0) -> Request:
    return Request(model_name=name, id=str(number), raw_input_contents=[data])


@pytest.mark.parametrize(
    "asked",
    [
        request("echo"),
        request("echo", bytes(60_000)),
        request("grow:3000000"),
        *(request(f"fail:{code.name}") for code in grpc.StatusCode if code is not grpc.StatusCode.OK),
    ],
    ids=lambda asked: f"{asked.model_name}-{asked.ByteSize()}",
)
def test_the_answer_is_that_of_grpc_aio(address: str, asked: Request) -> None:
    async def answers() -> list[Any]:
        async with server(address, Triton()), both(address) as calls:
            return [await outcome(call(asked, 10)) for call in calls]

    ours, theirs = uvloop.run(answers())
    assert ours == theirs


def test_many_at_once_get_each_their_own_and_more_than_a_window_of_them_goes_through(address: str) -> None:
    async def many() -> None:
        async with server(address, Triton()), both(address) as (infer, _):
            for begin in range(0, 1280, 64):
                asked = [request("echo", bytes([n % 256]) * 800, n) for n in range(begin, begin + 64)]
                answers = await asyncio.gather(*(infer(one, 10) for one in asked))
                assert [(one.id, one.raw_output_contents[0]) for one in answers] == [
                    (one.id, one.raw_input_contents[0]) for one in asked
                ]

    uvloop.run(many())


def test_a_large_one_goes_by_grpc_aio(address: str) -> None:
    async def others() -> None:
        async with server(address, Triton()), Backend(address) as backend:
            assert (await backend.infer(request("echo", bytes(TOO_LARGE), 2))).id == "2"

    uvloop.run(others())


def test_a_deadline_passes_and_a_caller_leaves(address: str) -> None:
    async def late() -> None:
        triton = Triton()
        async with server(address, triton), both(address) as (infer, _):
            code, _ = await outcome(infer(request("sleep:20", number=1), 0.2))
            assert code is grpc.StatusCode.DEADLINE_EXCEEDED
            leaving = asyncio.create_task(outcome(infer(request("sleep:20", number=2), 20)))
            await until_async(lambda: "2" in triton.begun)
            leaving.cancel()
            await until_async(lambda: "2" in triton.ended)
            assert (await infer(request("echo", number=3), 10)).id == "3"

    uvloop.run(late())


def test_a_server_that_ends_answers_what_it_began_and_the_next_one_is_found(address: str) -> None:
    async def restarted() -> None:
        async with Backend(address) as backend:
            triton = Triton()
            async with server(address, triton) as first:
                begun = asyncio.create_task(outcome(backend.infer(request("sleep:0.3", number=1), 10)))
                killed = asyncio.create_task(outcome(backend.infer(request("sleep:20", number=2), 10)))
                await until_async(lambda: {"1", "2"} <= set(triton.begun))
                await first.stop(2)
                assert (await begun).id == "1"
                code, _ = await killed
                assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
            code, said = await outcome(backend.infer(request("echo"), 10))
            assert code is grpc.StatusCode.UNAVAILABLE
            assert "failed to connect to all addresses" in said  # by which the door sends it again
            async with server(address, Triton()):
                assert (await backend.infer(request("echo", number=2), 10)).id == "2"

    uvloop.run(restarted())


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n" * 1000,
        frame(unary.DATA, 0x8, 1, b"\5padded\0\0\0\0\0"),
        frame(unary.HEADERS, 0x1, 1, b"@\x0bgrpc-status\x010"),  # in pieces
        frame(unary.HEADERS, 0x5, 1, b"\xff\xff\xff"),
        frame(SETTINGS, 0, 0, b"odd"),
        b"",
    ],
    ids=["other protocol", "padded", "in pieces", "no headers", "half a setting", "closed"],
)
def test_what_is_not_understood_ends_the_connection_and_the_call(address: str, said: bytes) -> None:
    async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(SETTINGS, 0, 0))
        await reader.readuntil(b"echo")
        writer.write(said)
        writer.write_eof()

    async def asked() -> None:
        async with await asyncio.start_unix_server(odd, address.removeprefix("unix:")):
            connection = await ready(address)
            code, _ = await outcome(connection.call(request("echo").SerializeToString(), 5))
            assert code is grpc.StatusCode.UNAVAILABLE
            assert connection.closed

    uvloop.run(asked())


@pytest.mark.parametrize(
    "said", [frame(GOAWAY, 0, 0, struct.pack(">II", 0, 0)), frame(unary.RESET, 0, 1, struct.pack(">I", 7))]
)
def test_a_call_that_was_not_begun_may_be_made_again(address: str, said: bytes) -> None:
    async def leaves(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(SETTINGS, 0, 0))
        await reader.readuntil(b"echo")
        writer.write(said)

    async def asked() -> None:
        async with await asyncio.start_unix_server(leaves, address.removeprefix("unix:")):
            connection = await ready(address)
            with pytest.raises(unary.NotBegun):
                await connection.call(request("echo").SerializeToString(), 5)
            connection.close()

    uvloop.run(asked())


def test_an_answer_without_a_status_ends_the_call(address: str) -> None:
    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(SETTINGS, 0, 0))
        await reader.readuntil(b"echo")
        writer.write(frame(unary.HEADERS, 0x4, 1, b"\x88") + frame(unary.DATA, 0x1, 1, b"no gRPC"))

    async def asked() -> None:
        async with await asyncio.start_unix_server(answers, address.removeprefix("unix:")):
            connection = await ready(address)
            code, _ = await outcome(connection.call(request("echo").SerializeToString(), 5))
            assert code is grpc.StatusCode.UNKNOWN
            connection.close()

    uvloop.run(asked())


def test_a_connection_that_ends_takes_no_call(address: str) -> None:
    """It would be told that it may have been made, and so not be made again."""

    async def ends() -> None:
        async with server(address, Triton()):
            connection = await ready(address)
            assert connection._transport is not None
            connection._transport.close()  # as asyncio does at the end of what the peer says
            assert not connection.takes(10)

    uvloop.run(ends())


async def ready(address: str) -> unary.Unary:
    connection = await unary.connected(address, "/a.B/C")
    assert connection.takes(10)
    return connection


def test_what_has_no_database_loads_no_sqlalchemy() -> None:
    """A fifth of a second of a core at each start, and 12 MB in the gateway."""
    code = "import sys, penstock.stack.stack, penstock_inference.prepare, penstock_inference.gateway.__main__"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; sys.exit('sqlalchemy' in sys.modules)"], timeout=60
    )
    assert done.returncode == 0
