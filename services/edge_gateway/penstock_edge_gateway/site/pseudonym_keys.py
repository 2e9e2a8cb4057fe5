"""Keys by which the site pseudonymizes, as the hub told them: a file a pipeline, for its owner's eyes
alone.
"""

from __future__ import annotations

from pathlib import Path

from penstock.contracts.errors import Invalid, Unavailable
from penstock_edge_gateway.private_file import write_private
from penstock_edge_gateway.pseudonyms import KEY_BYTES, fingerprint, pseudonym


class PseudonymKeys:
    def __init__(self, folder: Path) -> None:
        """Reads what `folder` holds; a key that is damaged comes again from the hub. Blocks."""
        self._folder = folder
        found = {path.stem: path.read_bytes() for path in folder.glob("*.key")}
        self._keys = {name: key for name, key in found.items() if len(key) == KEY_BYTES}

    @property
    def fingerprints(self) -> dict[str, str]:
        """Names of the keys by pipeline."""
        return {name: fingerprint(key) for name, key in self._keys.items()}

    def take(self, pipeline: str, key: bytes) -> None:
        """Keeps the key of an applied pipeline. Blocks. Raises Invalid for what is none."""
        if len(key) != KEY_BYTES:
            raise Invalid(f"a key for pseudonyms has {KEY_BYTES} bytes", where=pipeline)
        write_private(self._folder / f"{pipeline}.key", key)
        self._keys = {**self._keys, pipeline: key}

    def pseudonym(self, pipeline: str, field: str, value: str) -> str:
        """Raises Unavailable while the hub has not told the pipeline's key."""
        if (key := self._keys.get(pipeline)) is None:
            raise Unavailable(
                f"the key for pseudonyms of `{pipeline}` has not come from the hub yet", remedy="Try again"
            )
        return pseudonym(key, field, value)
