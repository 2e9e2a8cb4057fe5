"""Watches for partitions that a group leaves out: nobody reads them, and nobody is told.

One member of a group, its leader, gives out the partitions, by what one broker tells it of the
topics. A broker that has not heard of a new topic yet makes it leave the topic out, and where the
members know the topic by then, nothing makes them join again. It has been seen when a cluster was
started: a topic was read by nobody until somebody joined or left. So whoever reads in a group looks
whether all of its partitions are given out, and joins anew if not.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from penstock.contracts.errors import Unavailable
from penstock.runtime.kafka.admin import left_out
from penstock.runtime.settings import KafkaSettings

LOOK_EVERY_S: Final = 30.0
# Looks in a row at which a partition is left out before the group is formed anew; doubled each time
# that this did not help.
LOOKS, MOST_LOOKS = 2, 32


class Assignment:
    """Partitions of one group, look by look: what is left out at one look may have come into being
    since the group was formed.
    """

    def __init__(self, kafka: KafkaSettings, group: str) -> None:
        self._kafka = kafka
        self._group = group
        self._seen: Counter[str] = Counter()
        self._looks = LOOKS
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="assignment")
        self._looking: Future[list[str]] | None = None
        self._look_at = 0.0

    def look(self, topics: Collection[str]) -> list[str]:
        """Returns what is left out for the second look in a row, as `topic/partition`; after that, while
        it lasts, for the fourth, the eighth and so on.

        Blocks as `left_out` does.
        """
        found = left_out(self._kafka, self._group, topics)
        if found is not None and not found:
            self._looks = LOOKS
        self._seen = Counter({partition: self._seen[partition] + 1 for partition in found or ()})
        lasting = sorted(partition for partition, looks in self._seen.items() if looks >= self._looks)
        if lasting:
            self._seen, self._looks = Counter(), min(2 * self._looks, MOST_LOOKS)
        return lasting

    def check(self, topics: Collection[str]) -> None:
        """Looks every 30 s, in a thread of its own, and returns at once. Raises Unavailable where the
        last look found that a partition is left out of `topics`: the member must join anew.
        """
        if self._looking is None and time.monotonic() >= self._look_at:
            self._looking = self._thread.submit(self.look, topics)
        elif self._looking is not None and self._looking.done():
            left_out, self._looking = self._looking.result(), None
            self._look_at = time.monotonic() + LOOK_EVERY_S
            if left_out:
                raise Unavailable(f"nobody in the group has {', '.join(left_out)}", where=self._group)
