"""Address of a Redis server, read from its URL. Pure; no message repeats the URL, which may hold a
password by mistake.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from penstock.contracts.errors import Invalid

_REMEDY = "Write redis://host:6379/0, or rediss:// for TLS"


class Address(NamedTuple):
    """One server and one of its databases."""

    host: str
    port: int
    database: int
    tls: bool
    user: str | None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @classmethod
    def read(cls, url: str) -> Address:
        """`redis://[user@]host[:port][/database]`, `rediss://` for TLS. Raises Invalid."""
        try:
            parts = urlsplit(url)
            port, database = parts.port or 6379, int(parts.path.strip("/") or 0)
        except ValueError:
            raise Invalid(
                "the online store's URL has no valid port or database number", remedy=_REMEDY
            ) from None
        if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.query or parts.fragment:
            raise Invalid("the online store's URL is not that of a Redis server", remedy=_REMEDY)
        if parts.password is not None:
            raise Invalid(
                "the online store's URL holds a password",
                remedy="Put it into a file and name that in ONLINE_STORE_PASSWORD_FILE",
            )
        return cls(
            parts.hostname,
            port,
            database,
            parts.scheme == "rediss",
            unquote(parts.username) if parts.username else None,
        )
