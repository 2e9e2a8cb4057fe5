"""The hub's authority, kept in a file of its own, and what the door is handed of it."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Self

import structlog
from cryptography import x509
from pydantic import ValidationError

from penstock.contracts.errors import Tampered
from penstock.contracts.site_door import SiteDoor
from penstock_edge_gateway import certificates
from penstock_edge_gateway.certificates import Identity
from penstock_edge_gateway.private_file import write_private

log = structlog.get_logger(__name__)

_FILE: Final = "authority.json"
_SECRET_BYTES: Final = 32


@dataclass(frozen=True)
class Authority:
    """Signs sites' certificates. `secret` shows that a call came through the door."""

    identity: Identity
    secret: str

    @classmethod
    def open(cls, folder: Path, now: datetime) -> Self:
        """Reads the authority that `folder` keeps; makes it where there is none. Raises Tampered
        where it cannot be read: another would shut out every site.
        """
        path = folder / _FILE
        if not path.exists():
            made = certificates.new_authority(now)
            content = {
                "certificate": made.certificate_pem,
                "key": made.key_pem,
                "secret": secrets.token_hex(_SECRET_BYTES),
            }
            write_private(path, json.dumps(content, indent=1).encode(), replace=False)
        try:
            kept = json.loads(path.read_bytes())
            return cls(Identity.load(kept["certificate"], kept["key"]), str(kept["secret"]))
        except (ValueError, TypeError, KeyError) as error:
            raise Tampered(
                f"the authority of all sites cannot be read: {error}",
                where=str(path),
                remedy="Take it from a backup; without it, remove it and enroll every site with --replace",
            ) from error

    @property
    def digest(self) -> str:
        """Name of the authority: the sha256 of its certificate."""
        return certificates.digest(self.identity.certificate)

    def hand_over(self, path: Path, now: datetime) -> SiteDoor:
        """Writes to `path` what the door needs, where it is missing, another authority's, or its
        certificate ends soon.
        """
        known = _read(path)
        if known and self._holds(known, now):
            return known
        door = certificates.door_identity(self.identity, now)
        handed = SiteDoor(
            authority=self.identity.certificate_pem,
            certificate=door.certificate_pem,
            key=door.key_pem,
            secret=self.secret,
        )
        write_private(path, handed.model_dump_json(indent=1).encode())
        log.info("site_door_handed_over", certificate_until=door.certificate.not_valid_after_utc.isoformat())
        return handed

    def _holds(self, handed: SiteDoor, now: datetime) -> bool:
        try:
            door = Identity.load(handed.certificate, handed.key).certificate
        except ValueError:
            return False
        ours = (self.identity.certificate_pem, self.secret)
        return (handed.authority, handed.secret) == ours and not certificates.is_due(door, now)

    def certify(self, site: str, request: bytes, now: datetime) -> x509.Certificate:
        """Certificate for the key that signed `request`. Raises Invalid."""
        return certificates.site_certificate(self.identity, site, certificates.requested_key(request), now)


def _read(path: Path) -> SiteDoor | None:
    try:
        return SiteDoor.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
