"""Whose signatures count at the site: the trust store that came with joining, and what the registry
changed in it since, each change signed by a key that counted before.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final

import structlog
from pydantic import BaseModel, TypeAdapter, ValidationError

from penstock.contracts.errors import NotFound, Tampered
from penstock.contracts.events import Envelope
from penstock.packages import trust_updates
from penstock.packages.keys import TRUST_FILE, Trust, TrustedKey
from penstock.packages.trust_updates import Followed
from penstock_edge_gateway.private_file import write_private

log = structlog.get_logger(__name__)

_FILE: Final = "followed.json"
_UPDATES: Final = TypeAdapter(tuple[Envelope, ...])


class _Kept(BaseModel):
    serial: int
    keys: dict[str, TrustedKey]
    at: datetime | None = None  # a release before kept none

    def store(self) -> bytes:
        """Trust store as `penstock.packages.keys.Keys` reads it."""
        return TypeAdapter(dict[str, TrustedKey]).dump_json(self.keys)


class SiteTrust:
    """Folder `keys` in the site's; `Keys` reads it as everywhere. The store and its serial are one
    file: a cut leaves both or neither.
    """

    def __init__(self, folder: Path) -> None:
        """Makes the store anew from that file, where a cut left an older one. Where the file is damaged,
        the store counts as it was: the site serves on, and is told nothing by the hub.
        """
        self.folder = folder / "keys"
        if (self.folder / _FILE).exists():
            try:
                self._show(self._kept())
            except Tampered as error:
                log.error("trust_damaged", reason=str(error))

    @property
    def serial(self) -> int:
        """Serial of the newest update that counts here. Raises NotFound before the site has joined, and
        Tampered.
        """
        return self._kept().serial

    @property
    def signed_at(self) -> datetime | None:
        """Moment of that update's signature; None where an older release kept it. Raises as `serial`."""
        return self._kept().at

    def begin(self, updates: bytes) -> None:
        """Takes the newest store on the hub's word: the token proved the hub. Raises Tampered, NoKey."""
        self._keep(trust_updates.first(_read(updates)))

    def follow(self, updates: bytes) -> bool:
        """Goes on to the newest update; tells whether there was a newer one. Raises Tampered: then all
        stays as it is.
        """
        kept = self._kept()
        followed = Followed(kept.serial, Trust(kept.keys), kept.at).after(_read(updates))
        if followed.serial == kept.serial:
            return False
        self._keep(followed)
        return True

    def _kept(self) -> _Kept:
        path = self.folder / _FILE
        try:
            return _Kept.model_validate_json(path.read_bytes())
        except FileNotFoundError as error:
            raise NotFound("this site has not joined yet", where=str(path)) from error
        except ValidationError as error:
            raise Tampered(
                "the site's trust store cannot be read",
                where=str(path),
                remedy="Enroll the site again with --replace, remove its identity.json, and join",
            ) from error

    def _keep(self, followed: Followed) -> None:
        kept = _Kept(serial=followed.serial, keys=dict(followed.trust.keys), at=followed.at)
        write_private(self.folder / _FILE, kept.model_dump_json(indent=1).encode())
        self._show(kept)

    def _show(self, kept: _Kept) -> None:
        path, store = self.folder / TRUST_FILE, kept.store()
        if not path.exists() or path.read_bytes() != store:
            write_private(path, store)


def _read(updates: bytes) -> tuple[Envelope, ...]:
    try:
        return _UPDATES.validate_json(updates)
    except ValidationError as error:
        raise Tampered("the hub sent no updates of a trust store") from error
