"""`PENSTOCK_FEATURE_STORE__…`."""

from __future__ import annotations

import socket
from pathlib import Path

from pydantic import Field, field_validator

from penstock.runtime.settings import ServiceSettings, service_config
from penstock_feature_store.online.redis_server import Address


class Settings(ServiceSettings):
    model_config = service_config("feature_store")

    batch: int = Field(default=10_000, ge=1, le=100_000)
    """The most records in one file of the lake."""
    linger_s: float = Field(default=0.2, ge=0, le=10)
    """Seconds from one file of a partition to the next while neither is full: the most that a record
    waits to be written.
    """
    advertise: str = ""
    """host:port where other replicas reach this one; by default `host`, or this machine's name
    where that is every address, and `port`.
    """
    online_store: str = ""
    """`redis://host:6379/0` (`rediss://` for TLS); by default SQLite files beside the lake."""
    online_store_password_file: Path | None = None
    """File that holds Redis's password."""

    @property
    def advertised(self) -> str:
        host, _, port = self.address.rpartition(":")
        everywhere = host in ("0.0.0.0", "::", "[::]")  # noqa: S104  compared, not bound
        return self.advertise or f"{socket.gethostname() if everywhere else host}:{port}"

    @property
    def redis(self) -> Address | None:
        """Address of the online store if it is in Redis."""
        return Address.read(self.online_store) if self.online_store else None

    @field_validator("online_store")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        if url:
            Address.read(url)
        return url
