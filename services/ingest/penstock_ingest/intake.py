"""events → records, rejects. The stream commits the outcome and the batch's offsets in one transaction.

What is counted travels in the committed offset's metadata (`counts.py`), what was seen and what
values look like in the `seen` topic (`history.py`): all of it becomes durable with the offsets or
not at all, and any replica can read it.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import compress
from typing import Protocol

import structlog

from penstock.contracts import metrics
from penstock.contracts.dataplane import LATEST
from penstock.contracts.pipeline import Pipeline, SourceField
from penstock.contracts.topics import source_topic
from penstock.contracts.validation import Rules
from penstock.runtime.kafka.messages import Batch, Committed, Outcome, Produced, Send
from penstock.runtime.metrics import counter, histogram
from penstock_ingest import history
from penstock_ingest.counts import Counts, decode_counts
from penstock_ingest.history import Restored
from penstock_ingest.produced import records, reject
from penstock_ingest.profile import Profile, Profiler, add
from penstock_ingest.seen import SeenIds, digest
from penstock_ingest.typed import TypedRules

log = structlog.get_logger(__name__)
_EVENTS = counter(metrics.EVENTS)
_REJECTS = counter(metrics.REJECTS)
_FORGOTTEN = counter(metrics.FORGOTTEN)
_DELAY = histogram(metrics.INGEST_DELAY)

# Events that go through all steps together, up to Kafka's client: more of them leave the processor's cache
# between two steps, at a third of the speed.
CHUNK = 256


def milliseconds() -> int:
    """Now, since 1970."""
    return time.time_ns() // 1_000_000


class Restores(Protocol):
    def restore(self, partition: int, *, records: int, window_ms: int, capacity: int, now: int) -> Restored:
        """Raises Unavailable."""


@dataclass(slots=True)
class _Partition:
    position: int
    counts: Counts
    seen: SeenIds
    profile: Profile
    since_checkpoint: int = history.CHECKPOINT_EVERY


class Intake:
    """Events of one source. A `Processor` of the stream."""

    def __init__(
        self, pipeline: Pipeline, source: str, *, restores: Restores, clock: Callable[[], int], capacity: int
    ) -> None:
        """`clock`: milliseconds since 1970. `capacity`: ids remembered in each partition."""
        self.pipeline, self.source = pipeline.pipeline, source
        self._named = {"pipeline": self.pipeline, "source": source}
        self.events_topic = source_topic("events", self.pipeline, source)
        self._records_topic = source_topic("records", self.pipeline, source)
        self._rejects_topic = source_topic("rejects", self.pipeline, source)
        self._seen_topic = source_topic("seen", self.pipeline, source)
        self._restores = restores
        self._clock = clock
        self._capacity = capacity
        self._now = 0
        self._partitions: dict[int, _Partition] = {}
        self._rejected: deque[tuple[int, int]] = deque(maxlen=4096)
        self.follow(pipeline)

    def follow(self, pipeline: Pipeline) -> None:
        """The pipeline was applied again: the next batch goes by its new rules. From any thread."""
        self._typed = TypedRules(pipeline, self.source, Rules(pipeline, self.source))

    @property
    def fields(self) -> Mapping[str, SourceField]:
        """Fields as declared now, in the file's order."""
        return self._typed.rules.fields

    def rejected_since(self, moment: int) -> int:
        """Rejects of this replica, for people to look at. From any thread."""
        return sum(count for at, count in list(self._rejected) if at >= moment)

    def assigned(self, partitions: Mapping[int, Committed]) -> None:
        self._partitions = {number: self._take(number, committed) for number, committed in partitions.items()}

    def process(self, batch: Batch, send: Send) -> Outcome:
        typed, number = self._typed, batch.partition.number
        partition = self._partitions[number]
        seen = partition.seen
        seen.window_ms = typed.rules.window_ms
        now = self._now = max(self._now, self._clock())
        fresh, rejects, delta = self._divide(batch, typed, seen, now, send)
        duplicates = len(batch.messages) - len(fresh) - rejects.total()
        here = Counts(len(fresh), duplicates, seen.excess(len(fresh), now), rejects)
        counts = partition.counts + here
        whole = add(partition.profile, delta)
        checkpoint = partition.since_checkpoint >= history.CHECKPOINT_EVERY
        if fresh:
            said = history.headers(counts.records, delta, whole if checkpoint else None)
            send([Produced(self._seen_topic, number, None, b"".join(fresh), said)])

        def committed() -> None:
            seen.remember(fresh, now, here.forgotten)
            partition.position, partition.counts, partition.profile = batch.position, counts, whole
            if fresh:
                partition.since_checkpoint = 1 if checkpoint else partition.since_checkpoint + 1
            self._measure(here, now, batch.messages[0].timestamp if batch.messages else -1)

        return Outcome(metadata=counts.encode(), committed=committed)

    def _divide(
        self, batch: Batch, typed: TypedRules, seen: SeenIds, now: int, send: Send
    ) -> tuple[dict[bytes, None], Counter[str], Profile]:
        """Divides a batch, and sends its records and rejects chunk by chunk: Kafka takes one while the
        next is decoded. Returns the digests of new ids, the number of rejects by reason, and the
        records' profile.
        """
        number = batch.partition.number
        at = datetime.fromtimestamp(now / 1000, UTC)
        latest = min(LATEST, at + typed.rules.ahead)
        profiler = Profiler(typed.rules.fields)
        fresh: dict[bytes, None] = {}
        rejects: Counter[str] = Counter()
        for first in range(0, len(batch.messages), CHUNK):
            accepted, rejected = typed.check(batch.messages[first : first + CHUNK], latest)
            rejects.update(answer.reason for _, answer in rejected)
            digests = list(map(digest, accepted.ids))
            new = seen.divide(digests, now, fresh)
            fresh.update(dict.fromkeys(compress(digests, new)))
            kept = accepted.only(new)
            send(
                records(self._records_topic, number, kept)
                + [reject(self._rejects_topic, number, message, answer, at) for message, answer in rejected]
            )
            profiler.add(kept.fields)
        return fresh, rejects, profiler.profile()

    def _measure(self, counts: Counts, now: int, published: int) -> None:
        # `published`: time of the batch's first event in milliseconds, -1 where that is not known.
        rejects = counts.rejects.total()
        for outcome, events in (
            ("record", counts.records),
            ("duplicate", counts.duplicates),
            ("reject", rejects),
        ):
            _EVENTS.add(events, {**self._named, "outcome": outcome})
        for reason, events in counts.rejects.items():
            _REJECTS.add(events, {**self._named, "reason": reason})
        _FORGOTTEN.add(counts.forgotten, self._named)
        if published >= 0:
            _DELAY.record(max(0, self._clock() - published) / 1000, self._named)
        if rejects:
            self._rejected.append((now, rejects))
            log.info("events_rejected", **self._named, rejects=rejects, reasons=dict(counts.rejects))

    def _take(self, number: int, committed: Committed) -> _Partition:
        # A partition that comes straight back is as it was left: had another replica worked on it,
        # the position would be another.
        known = self._partitions.get(number)
        if known is not None and known.position == committed.position:
            return known
        counts = decode_counts(committed.metadata)
        restored = self._restores.restore(
            number,
            records=counts.records,
            window_ms=self._typed.rules.window_ms,
            capacity=self._capacity,
            now=self._clock(),
        )
        return _Partition(committed.position, counts, restored.seen, restored.profile)
