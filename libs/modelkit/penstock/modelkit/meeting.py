"""The port at which workers of several machines meet. Nothing here imports torch."""

from __future__ import annotations

import socket


def reserved(host: str, port: int = 0) -> socket.socket:
    """Binds a free port, or that one, on all of this machine's addresses of `host`'s kind. While the
    socket is open only this user's processes may bind the port, by this function, and no connection
    reaches it before one of them listens. Raises OSError.
    """
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found.bind(("", port))
    except OSError:
        found.close()
        raise
    return found
