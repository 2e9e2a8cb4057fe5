"""Names of model versions: short ones for people to read, and references that people write."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from penstock.contracts.digests import ALGORITHM, SHORT_DIGITS, short_digest
from penstock.contracts.errors import Invalid

_REFERENCE: Final = re.compile(
    rf"(?:(?P<pipeline>[a-z][a-z0-9-]{{0,62}})@)?(?:{ALGORITHM})?(?P<digits>[0-9a-f]{{4,64}})"
)


def version_name(pipeline: str, digest: str, digits: int = SHORT_DIGITS) -> str:
    """Name of a version for people: `adult-income@3f9c12ab`."""
    return f"{pipeline}@{short_digest(digest, digits)}"


@dataclass(frozen=True)
class VersionReference:
    """Reference to a version: the beginning of its digest, perhaps with its pipeline."""

    pipeline: str | None
    prefix: str  # Beginning of the digest, with the algorithm

    @classmethod
    def parse(cls, text: str) -> VersionReference:
        """Reads at least 4 digits of a digest, with or without `sha256:` and `pipeline@`. Raises
        Invalid.
        """
        found = _REFERENCE.fullmatch(text.strip())
        if found is None:
            raise Invalid(
                "write a digest or at least its first 4 digits, as in adult-income@3f9c", where=text
            )
        return cls(found["pipeline"], ALGORITHM + found["digits"])
