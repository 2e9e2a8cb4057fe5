"""Identity of the site: its name, key and certificate, and the authority by which it knows the hub.

One file, 0600, in the site's folder. The key was made here and is nowhere else.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import grpc

from penstock.contracts.errors import NotFound, Tampered
from penstock.contracts.site_door import SITES_NAME
from penstock_edge_gateway.private_file import write_private

FILE: Final = "identity.json"
_OPTIONS: Final = (
    # While a call waits, a line that is dead without a word is noticed after 75 s; else TCP would hold on
    # to it for a quarter of an hour. A ping's answer is waited for by the second of these, not by
    # keepalive_timeout_ms; at 5 s a busy slow line was taken for dead.
    ("grpc.keepalive_time_ms", 55_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_reconnect_backoff_ms", 60_000),  # as long as `Hub` waits; by default two minutes
)


@dataclass(frozen=True)
class SiteIdentity:
    site: str
    hub: str  # host:port of the door for sites
    authority: str  # certificate, PEM
    certificate: str  # the site's, PEM
    key: str  # of the site's certificate, PEM

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises NotFound where the site has not joined yet, Tampered for a damaged file."""
        path = folder / FILE
        try:
            return cls(**json.loads(path.read_bytes()))
        except FileNotFoundError as error:
            raise NotFound(
                "this site has not joined yet",
                where=str(path),
                remedy="Run `penstock sites enroll NAME` at the hub, then join here with its token",
            ) from error
        except (ValueError, TypeError) as error:
            raise Tampered(
                f"the site's identity cannot be read: {error}",
                where=str(path),
                remedy="Enroll the site again with --replace, remove the file, and join",
            ) from error

    def save(self, folder: Path) -> None:
        """Writes it durably."""
        write_private(folder / FILE, json.dumps(asdict(self), indent=1).encode())

    def channel(self, *options: tuple[str, Any]) -> grpc.aio.Channel:
        """Channel to the hub. Connects at the first call, never here."""
        credentials = grpc.ssl_channel_credentials(
            self.authority.encode(), self.key.encode(), self.certificate.encode()
        )
        named = ("grpc.ssl_target_name_override", SITES_NAME)
        return grpc.aio.secure_channel(self.hub, credentials, options=[named, *_OPTIONS, *options])
