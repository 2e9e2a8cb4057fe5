"""Asks programs of the same machine over HTTP, at a port or at a Unix socket."""

from __future__ import annotations

import http.client
import socket

UNIX = "unix:"
"""Prefix of an address that is the path of a socket, as gRPC writes it."""


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(address: str, method: str, path: str, body: bytes | None = None, *, within_s: float) -> bytes:
    """Returns the body of a 200. `address`: `host:port`, or `unix:` and a path. Blocks for up to
    `within_s` at each step. Raises OSError, HTTPException.
    """
    connection = (
        _SocketConnection(address.removeprefix(UNIX), within_s)
        if address.startswith(UNIX)
        else http.client.HTTPConnection(address, timeout=within_s)
    )
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise http.client.HTTPException(f"{method} {path}: {response.status}")
        return response.read()
    finally:
        connection.close()
