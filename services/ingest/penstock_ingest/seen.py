"""Ids accepted lately in one partition: a sorted array of 64-bit digests, and a dict of
the newest.

16 bytes an id in memory, 8 on the topic. Two different ids share a digest with a chance of n /
2**64 for each new id among n known ones: 1 in 10**13 at two million.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

DIGEST_BYTES = 8
_TYPE = np.dtype(">u8")  # of the digests in a message: their order as bytes is their order as numbers


def digest(identity: str) -> bytes:
    """8 bytes of BLAKE2b."""
    return blake2b(identity.encode(), digest_size=DIGEST_BYTES).digest()


class SeenIds:
    """The ids of the last `window_ms`, at most `capacity` of them; beyond it the oldest are
    forgotten. Times are milliseconds since 1970.

    `divide` and `excess` change nothing that can be seen; `remember` is called once the batch is committed.
    """

    def __init__(self, window_ms: int, capacity: int) -> None:
        self.window_ms = window_ms
        self.capacity = capacity
        self._sorted: NDArray[np.uint64] = np.empty(0, np.uint64)
        # Time at which each of `_sorted` was accepted, milliseconds since the epoch.
        self._times: NDArray[np.int64] = np.empty(0, np.int64)
        self._recent: dict[bytes, int] = {}

    def restore(self, chunks: Sequence[tuple[bytes, int]], now: int) -> None:
        """Starts from what was remembered before: digests joined, and when; in the order they came.
        Keeps the newest `capacity`.
        """
        joined = b"".join(digests for digests, _ in chunks)
        ids = np.frombuffer(joined, _TYPE).astype(np.uint64)[-self.capacity :]
        sizes = [len(digests) // DIGEST_BYTES for digests, _ in chunks]
        times = np.repeat(np.array([time for _, time in chunks], np.int64), sizes)[-self.capacity :]
        order = np.argsort(ids, kind="stable")
        self._sorted, self._times, self._recent = ids[order], times[order], {}
        self._tidy(now - self.window_ms)

    def __len__(self) -> int:
        """Ids held; some may have left the window and await the next tidying."""
        return len(self._sorted) + len(self._recent)

    def divide(self, digests: Sequence[bytes], now: int, before: Container[bytes] = ()) -> list[bool]:
        """Tells for each digest in turn whether it is new. `before`: digests of the same batch that are
        not remembered yet.
        """
        oldest = now - self.window_ms
        known = self._known(digests, oldest)
        here = set[bytes]()
        first = []
        for one, is_known in zip(digests, known, strict=True):
            new = (
                not is_known
                and one not in here
                and one not in before
                and self._recent.get(one, oldest - 1) < oldest
            )
            if new:
                here.add(one)
            first.append(new)
        return first

    def excess(self, count: int, now: int) -> int:
        """Number of the oldest ids to forget before `count` more are remembered: none, or a good part
        at once, since it costs a pass over all.
        """
        if len(self) + count <= self.capacity:
            return 0
        self._tidy(now - self.window_ms)
        over = len(self) + count - self.capacity
        return 0 if over <= 0 else min(len(self), max(over, self.capacity // 16))

    def remember(self, digests: Iterable[bytes], now: int, forget: int = 0) -> None:
        if forget:
            self._tidy(now - self.window_ms)
            keep = np.ones(len(self._sorted), bool)
            keep[np.argpartition(self._times, forget - 1)[:forget]] = False
            self._sorted, self._times = self._sorted[keep], self._times[keep]
        self._recent |= dict.fromkeys(digests, now)
        if len(self._recent) > max(16_384, len(self._sorted) // 16):
            self._tidy(now - self.window_ms)

    def _known(self, digests: Sequence[bytes], oldest: int) -> list[bool]:
        if not len(self._sorted) or not digests:
            return [False] * len(digests)
        asked = np.frombuffer(b"".join(digests), _TYPE).astype(np.uint64)
        at = np.minimum(np.searchsorted(self._sorted, asked), len(self._sorted) - 1)
        known: list[bool] = ((self._sorted[at] == asked) & (self._times[at] >= oldest)).tolist()
        return known

    def _tidy(self, oldest: int) -> None:
        # Merges the newest into the sorted array and drops what has left the window.
        newest = np.frombuffer(b"".join(self._recent), _TYPE).astype(np.uint64)
        newest_times = np.fromiter(self._recent.values(), np.int64, len(self._recent))
        ids = np.concatenate([self._sorted, newest])
        times = np.concatenate([self._times, newest_times])
        keep = times >= oldest
        ids, times = ids[keep], times[keep]
        order = np.argsort(ids, kind="stable")  # a sorted run and a short unsorted one: timsort merges them
        self._sorted, self._times, self._recent = ids[order], times[order], {}
