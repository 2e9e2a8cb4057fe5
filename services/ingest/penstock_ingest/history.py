"""History on the `seen` topic: the ids of the deduplication window, and the profile of all
records so far.

One message per transaction that accepted something: the value is the ids' digests, joined. Headers:
`total`, the records of this partition up to and with this message; `delta`, the profile of this
message's records; on every 64th, and on the first after a start, `profile` instead: that of all
records so far. So the whole profile is never more than a few messages away from the end, and a
message stays about as small as the events it stands for.

Read from the end backwards, since the end is what counts and the topic may be far larger than what fits.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import structlog
from confluent_kafka import Message as RawMessage

from penstock.contracts.errors import Invalid
from penstock.runtime.dead_letters import Reject
from penstock.runtime.kafka.messages import Headers, Message, Partition
from penstock.runtime.kafka.reading import Reader
from penstock.runtime.settings import KafkaSettings
from penstock_ingest.profile import Profile, add, decode_profile, encode_profile
from penstock_ingest.seen import DIGEST_BYTES, SeenIds

log = structlog.get_logger(__name__)

NAME = "penstock.ingest.history"  # client id; no group of this name exists
CHECKPOINT_EVERY = 64  # transactions of a partition
# Offsets: each message is followed by its transaction's marker; aborted ones take offsets too.
FIRST_SPAN = 4 * CHECKPOINT_EVERY
# Bounds what is held in memory while reading: a message's headers may be larger than its ids.
LARGEST_SPAN = 1 << 15
FETCH_WAIT_MS = 10  # the end is told when a fetch comes back empty


def headers(total: int, delta: Profile, whole: Profile | None) -> Headers:
    profile = ("delta", encode_profile(delta)) if whole is None else ("profile", encode_profile(whole))
    return [("total", str(total).encode()), profile]


def whole_profile(messages: Sequence[Message]) -> Profile | None:
    """The last `profile` and all deltas after it. None without any `profile`."""
    found: Profile | None = None
    for message in messages:
        if (whole := message.header("profile")) is not None:
            found = decode_profile(whole)
        elif found is not None and (delta := message.header("delta")) is not None:
            found = add(found, decode_profile(delta))
    return found


@dataclass(frozen=True)
class Restored:
    seen: SeenIds
    profile: Profile


@dataclass(frozen=True)
class History:
    """Reader of one source's `seen` topic."""

    kafka: KafkaSettings
    topic: str
    reject: Reject = lambda _where, _unfit: None

    def restore(self, partition: int, *, records: int, window_ms: int, capacity: int, now: int) -> Restored:
        """Restores the state at the committed position, at which `records` were accepted. Raises
        Unavailable.
        """
        began = time.perf_counter()
        chunks: list[tuple[bytes, int]] = []
        unfit: list[tuple[int, Exception]] = []
        ids = 0
        newest: list[Message] = []
        profile: Profile | None = None
        with closing(self._spans(partition, until_total=records)) as spans:
            for span in spans:
                sound = _sound(span, unfit, headers=profile is None)
                found = [(raw.value() or b"", raw.timestamp()[1]) for raw in sound]
                chunks[:0] = found
                ids += sum(len(joined) for joined, _ in found) // DIGEST_BYTES
                if profile is None:
                    newest = [*map(_message, sound), *newest]
                    profile = whole_profile(newest)
                if profile is not None and (ids >= capacity or (found and found[0][1] < now - window_ms)):
                    break
        self.reject(Partition(self.topic, partition), unfit)
        seen = SeenIds(window_ms, capacity)
        seen.restore(chunks, now)
        if chunks:
            log.info(
                "seen_restored",
                topic=self.topic,
                partition=partition,
                ids=len(seen),
                messages=len(chunks),
                seconds=round(time.perf_counter() - began, 3),
            )
        return Restored(seen, profile or {})

    def profile(self, partition: int, *, records: int) -> Profile:
        """Profile of all records of one partition. Raises Unavailable."""
        messages: list[Message] = []
        with closing(self._spans(partition, until_total=records)) as spans:
            for span in spans:
                messages = [*map(_message, _sound(span, [])), *messages]
                if (found := whole_profile(messages)) is not None:
                    return found
        return {}

    def _spans(self, partition: int, *, until_total: int) -> Generator[list[RawMessage], None, None]:
        """Spans of committed messages, each in order, from the end to the beginning of the log.

        The offsets of a transaction become visible apart from its messages: both are marked as
        committed partition by partition. So the end is not reached before the message that brings
        the total to `until_total`, as long as any transaction is still open here.
        """
        where = Partition(self.topic, partition)
        with Reader(self.kafka, NAME, isolation="read_uncommitted") as anybody:
            low, end = anybody.ends(where)  # read committed, the log ends before an open transaction

        def reached(last: RawMessage) -> bool:
            return _wrong(last) is None and _total(_message(last)) >= until_total

        span, start = FIRST_SPAN, end
        with Reader(self.kafka, NAME, fetch_wait_ms=FETCH_WAIT_MS) as reader:
            while start > low:
                start = max(low, end - span)
                yield reader.span(where, start, end, reached)
                span, end = min(span * 2, LARGEST_SPAN), start


def _sound(
    span: Sequence[RawMessage], unfit: list[tuple[int, Exception]], *, headers: bool = True
) -> list[RawMessage]:
    """The span's messages that ingest can have written; their `headers`, which are the larger part,
    are looked at where they are needed. Offsets of the others are added to `unfit`, with the reason.
    """
    wrong = {raw.offset() or 0: error for raw in span if (error := _wrong(raw, headers=headers))}
    unfit += wrong.items()
    return [raw for raw in span if raw.offset() not in wrong] if wrong else list(span)


def _wrong(raw: RawMessage, *, headers: bool = True) -> Invalid | None:
    if len(raw.value() or b"") % DIGEST_BYTES:
        return Invalid(f"ids have {DIGEST_BYTES} bytes each")
    if not headers:
        return None
    message = _message(raw)
    try:
        _total(message)
        for name in ("profile", "delta"):
            decode_profile(message.header(name) or b"{}")
    except ValueError:
        return Invalid("its total or its profile is none")
    return None


def _total(message: Message) -> int:
    """Raises ValueError."""
    return int(message.header("total") or 0)


def _message(raw: RawMessage) -> Message:
    said: Any = raw.headers() or ()
    return Message(raw.offset() or 0, None, raw.value(), raw.timestamp()[1], said)
