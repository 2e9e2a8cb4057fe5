"""Whose signatures count at the site: the trust store that came with joining, and what the registry
changed in it since, each change signed by a key that counted before.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from penstock.contracts.errors import Tampered
from penstock.contracts.events import Envelope
from penstock.packages import trust_updates
from penstock.packages.keys import TRUST_FILE, Keys, Trust
from penstock.packages.trust_updates import Followed
from penstock_edge_gateway.site.identity import write_private

_SERIAL_FILE: Final = "serial"
_UPDATES: Final = TypeAdapter(tuple[Envelope, ...])


class SiteTrust:
    """Files in `keys`, a folder in the site's; `penstock.packages.keys.Keys` reads it as everywhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "keys"

    @property
    def serial(self) -> int:
        """Of the newest update that counts here. Raises OSError before the site has joined."""
        return int((self.folder / _SERIAL_FILE).read_text())

    def begin(self, updates: bytes) -> None:
        """Takes the newest store on the hub's word: the token proved the hub. Raises Tampered, NoKey."""
        self._keep(trust_updates.first(_read(updates)))

    def follow(self, updates: bytes) -> bool:
        """Goes on to the newest update; tells whether there was a newer one. Raises Tampered: then all
        stays as it is.
        """
        known = Followed(self.serial, Keys(self.folder).trust())
        followed = known.after(_read(updates))
        if followed.serial == known.serial:
            return False
        self._keep(followed)
        return True

    def _keep(self, followed: Followed) -> None:
        # A cut between the two files has the newest update taken once more.
        write_private(self.folder / TRUST_FILE, _written(followed.trust))
        write_private(self.folder / _SERIAL_FILE, str(followed.serial).encode())


def _read(updates: bytes) -> tuple[Envelope, ...]:
    try:
        return _UPDATES.validate_json(updates)
    except ValidationError as error:
        raise Tampered("the hub sent no updates of a trust store") from error


def _written(trust: Trust) -> bytes:
    return json.dumps({name: key.model_dump(mode="json") for name, key in trust.keys.items()}).encode()
