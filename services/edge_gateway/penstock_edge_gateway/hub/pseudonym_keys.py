"""Keys by which sites pseudonymize, each pipeline's derived from one secret in a file of its own."""

from __future__ import annotations

import hmac
import json
import secrets
from pathlib import Path
from typing import Final

from penstock.contracts.errors import Tampered
from penstock_edge_gateway.private_file import write_private
from penstock_edge_gateway.pseudonyms import KEY_BYTES, pseudonym

FILE: Final = "pseudonyms.json"


class PseudonymKeys:
    """The secret is made when a key is first asked for. Methods block for the disk. Safe from any thread."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def key(self, pipeline: str) -> bytes:
        """Raises Tampered where the secret cannot be read: another would part what belongs together."""
        if not self._path.exists():
            made = {"secret": secrets.token_hex(KEY_BYTES)}
            write_private(self._path, json.dumps(made).encode(), replace=False)
        try:
            secret = bytes.fromhex(json.loads(self._path.read_bytes())["secret"])
            if len(secret) != KEY_BYTES:
                raise ValueError(f"it has {len(secret)} bytes")
        except (ValueError, TypeError, KeyError) as error:
            raise Tampered(
                f"the secret of all pseudonyms cannot be read: {error}",
                where=str(self._path),
                remedy="Take it from a backup; without it, remove it: what left before is found no more",
            ) from error
        return hmac.digest(secret, pipeline.encode(), "sha256")

    def pseudonym(self, pipeline: str, field: str, value: str) -> str | None:
        """Pseudonym of a value; None where no site was ever given a key. Raises Tampered."""
        return pseudonym(self.key(pipeline), field, value) if self._path.exists() else None
