"""A wire passes, counts, cuts, hangs and slows down."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from penstock.testing.wire import Wire


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A wire to a program that says back what it is told."""

    def echo(connection: socket.socket) -> None:
        with connection, contextlib.suppress(ConnectionError):
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                threading.Thread(target=echo, args=[listener.accept()[0]], daemon=True).start()
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=[listener], daemon=True).start()
        with Wire(to=listener.getsockname()[1]) as wire:
            yield wire
        listener.shutdown(socket.SHUT_RDWR)


def connected(wire: Wire, within: float = 10.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", wire.port), timeout=within)


def said_back(connection: socket.socket, size: int) -> int:
    """Bytes that come back of so many."""

    def send() -> None:
        with contextlib.suppress(OSError):
            connection.sendall(b"x" * size)

    threading.Thread(target=send, daemon=True).start()
    got = 0
    while got < size and (data := connection.recv(1 << 16)):
        got += len(data)
    return got


def test_it_passes_and_counts(wire: Wire) -> None:
    with connected(wire) as one, connected(wire) as other:
        assert (said_back(one, 100_000), said_back(other, 5)) == (100_000, 5)
    assert (wire.connections, wire.up, wire.down) == (2, 100_005, 100_005)


def test_a_cut_resets_what_is_open_and_what_comes(wire: Wire) -> None:
    with connected(wire) as open_before:
        assert said_back(open_before, 5) == 5
        wire.cut()
        with pytest.raises(ConnectionResetError):
            open_before.recv(1)
    with pytest.raises(ConnectionResetError), connected(wire) as refused:
        refused.recv(1)
    wire.mend()
    with connected(wire) as again:
        assert said_back(again, 5) == 5


def test_it_is_cut_once_after_so_many_bytes(wire: Wire) -> None:
    wire.cut_after(50_000)
    with connected(wire) as one, pytest.raises(ConnectionError):
        said_back(one, 1_000_000)
    assert 50_000 <= wire.down < 100_000
    with connected(wire) as again:
        assert said_back(again, 100_000) == 100_000


def test_a_wire_that_hangs_says_nothing(wire: Wire) -> None:
    with connected(wire, within=0.2) as one:
        assert said_back(one, 5) == 5
        wire.hang()
        with pytest.raises(TimeoutError):
            said_back(one, 5)
        wire.mend()
        one.settimeout(10)
        with pytest.raises(ConnectionResetError):
            one.recv(1)


def test_it_is_as_slow_as_asked(wire: Wire) -> None:
    wire.rate = 100_000
    began = time.monotonic()
    with connected(wire) as one:
        assert said_back(one, 50_000) == 50_000
    assert time.monotonic() - began > 0.4


def test_nobody_at_the_other_end_is_a_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Wire(to=port) as wire, pytest.raises(ConnectionResetError), connected(wire) as one:
        one.recv(1)
