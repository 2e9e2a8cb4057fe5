"""Pseudonyms: what leaves a site in place of a value that may not. Hub and sites make the same ones."""

from __future__ import annotations

import hashlib
import hmac

from penstock.contracts.pipeline.edge import PSEUDONYM_CHARACTERS

KEY_BYTES = 32


def pseudonym(key: bytes, field: str, value: str) -> str:
    """Replaces a value by the first 128 bits of its HMAC-SHA-256 (RFC 2104) in hexadecimal digits. Equal
    values of one field have equal pseudonyms, those of two fields have not.
    """
    said = f"{field}\0{value}".encode()
    return hmac.digest(key, said, "sha256").hex()[:PSEUDONYM_CHARACTERS]


def fingerprint(key: bytes) -> str:
    """Names a key without telling it."""
    return hashlib.sha256(key).hexdigest()[:16]
