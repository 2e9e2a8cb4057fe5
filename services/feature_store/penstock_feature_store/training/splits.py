"""Assignment of rows to parts. Pure, and the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from penstock.contracts.pipeline import SplitParts

PARTS = ("train", "validation", "audit")
Parts = npt.NDArray[np.int8]  # an index into PARTS for each row


def by_entity(entities: Sequence[str], parts: SplitParts, seed: int) -> Parts:
    """Puts all rows of an entity into one part, whatever other rows there are.

    The part follows from BLAKE2b of the entity's name, keyed with the seed, as a fraction of 2**64.
    """
    key = seed.to_bytes(8, "big")
    bounds = np.array([round(bound * 2**64) for bound in _bounds(parts)], np.uint64)
    hashes = b"".join(
        hashlib.blake2b(entity.encode(), digest_size=8, key=key).digest() for entity in entities
    )
    return np.searchsorted(bounds, np.frombuffer(hashes, ">u8").astype(np.uint64), side="right").astype(
        np.int8
    )


def by_time(times_us: npt.NDArray[np.int64], parts: SplitParts) -> Parts:
    """The oldest rows train, the newest are audited. Rows of one moment lie in one part, so the
    shares are met to within such a group.
    """
    found: Parts = np.zeros(len(times_us), np.int8)
    if len(times_us):
        ordered = np.sort(times_us)
        for bound in _bounds(parts):
            found += times_us >= ordered[min(round(bound * len(ordered)), len(ordered) - 1)]
    return found


def _bounds(parts: SplitParts) -> list[float]:
    total = parts.train + parts.validation + parts.audit
    return [parts.train / total, (parts.train + parts.validation) / total]
