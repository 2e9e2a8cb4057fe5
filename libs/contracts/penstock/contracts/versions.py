"""Names of model versions: short ones for people to read, and references that people write."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from penstock.contracts.digests import ALGORITHM, SHORT_DIGITS, short_digest
from penstock.contracts.errors import Invalid, NotFound

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

    def choose(self, versions: Iterable[tuple[str, str]], *, missing: str) -> str:
        """Returns the digest of the only one of `versions` (pipeline and digest) that is meant. Raises
        NotFound, which says `missing`, and Invalid where several are.
        """
        meant = sorted(
            (pipeline, digest)
            for pipeline, digest in set(versions)
            if self.pipeline in (None, pipeline) and digest.startswith(self.prefix)
        )
        if not meant:
            raise NotFound(missing, where=self.prefix, remedy="List versions with `penstock models PIPELINE`")
        if len(meant) > 1:
            names = ", ".join(version_name(pipeline, digest, 16) for pipeline, digest in meant[:5])
            raise Invalid(
                f"more than one version begins so: {names}", where=self.prefix, remedy="Write more digits"
            )
        return meant[0][1]
