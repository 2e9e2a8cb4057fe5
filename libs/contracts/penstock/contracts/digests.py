"""Digests: `sha256:` and 64 hexadecimal digits, the identity of packages, artifacts and versions."""

from __future__ import annotations

import hashlib
from typing import Final

ALGORITHM: Final = "sha256:"
SHORT_DIGITS: Final = 8
"""Digits of a digest that people read."""


def digest_of(content: bytes) -> str:
    """Digest of some bytes, with the algorithm."""
    return ALGORITHM + hashlib.sha256(content).hexdigest()


def digits_of(digest: str) -> str:
    """Digits of a digest without the algorithm, as file names have them."""
    return digest.removeprefix(ALGORITHM)


def short_digest(digest: str, digits: int = SHORT_DIGITS) -> str:
    """First digits of a digest, as people read it: `3f9c12ab`."""
    return digits_of(digest)[:digits]
