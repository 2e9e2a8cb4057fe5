"""Records of one lane, kept on disk until the hub has them: SQLite, in a file of its own.

Events and predictions have a spool each, so that neither takes the other's room or waits for its
commits. Sequences are dense: a record that was dropped or erased leaves a gap, which is forwarded in
its place. So a gap that is meant is told from a loss.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple, Self

from penstock_edge_gateway.site.age import AgeClock, Clock, since_boot
from penstock_edge_gateway.site.spool_file import STEP_BYTES, SpoolFile, without_room

Reason = Literal["full", "old", "erased"]

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS records (
    sequence INTEGER PRIMARY KEY,  -- a gap's: that of the last record it stands for
    kept REAL NOT NULL,            -- by the age clock
    pipeline TEXT NOT NULL,
    source TEXT NOT NULL,
    entity TEXT NOT NULL,
    body BLOB,
    required INTEGER NOT NULL,     -- never dropped
    skipped INTEGER NOT NULL,      -- records that a gap stands for; 0: a record
    reason TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS lane (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    epoch TEXT NOT NULL,
    reached INTEGER NOT NULL,      -- the hub has all up to here
    boot TEXT NOT NULL,
    ahead REAL NOT NULL,
    dropped INTEGER NOT NULL       -- records since the file was made
);
"""


class Record(NamedTuple):
    pipeline: str
    source: str  # empty: a prediction
    entity: str  # whom it is about, for erasure; empty: nobody who is named
    body: bytes
    required: bool = False  # never dropped


class Gap(NamedTuple):
    records: int
    reason: Reason


@dataclass(frozen=True)
class Batch:
    first: int
    """Sequence of the first record."""
    entries: tuple[Record | Gap, ...]
    """Without holes: a gap takes as many sequences as it stands for records, a record one."""

    @property
    def last(self) -> int:
        """Sequence of the last record; `first - 1` without any."""
        return self.first - 1 + sum(one.records if isinstance(one, Gap) else 1 for one in self.entries)


@dataclass(frozen=True)
class Depth:
    records: int
    bytes: int
    size: int  # bytes at most
    oldest_s: float | None  # age of the oldest, in seconds while the machine was on
    dropped: int  # since the file was made

    @property
    def full_in_s(self) -> float | None:
        """Seconds until it is full, if it goes on as since its oldest record."""
        return None if self.oldest_s is None else self.oldest_s * max(0.0, self.size / self.bytes - 1)


class Full(Exception):
    """Nothing was kept: the spool has reached its size, or the disk is full."""


class Spool:
    """One lane. Methods block, and may be called from any thread."""

    def __init__(self, path: Path, *, durable: bool, size: int, clock: Clock = since_boot) -> None:
        """Opens the file, or makes it. `durable`: a record is on disk when `append` returns; else it
        outlives the process, and a power cut takes the last seconds. `size`: bytes at most; log and
        reserve take 12 MiB beside it.
        """
        self._size = size
        self._lock = threading.RLock()
        self._file = SpoolFile(path, _SCHEMA, durable=durable, size=size)
        self._db = self._file.db
        self._restore(clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._file.close()

    def _restore(self, clock: Clock) -> None:
        newest = "SELECT coalesce(max(sequence), 0), coalesce(max(kept), 0) FROM records"
        last, latest = self._db.execute(newest).fetchone()
        lane = self._db.execute("SELECT epoch, reached, boot, ahead, dropped FROM lane").fetchone()
        self.epoch: str
        self.reached: int
        self._dropped: int
        new = (secrets.token_hex(8), 0, "", 0.0, 0)
        self.epoch, self.reached, boot, ahead, self._dropped = lane or new
        self._clock = AgeClock(clock, boot=boot, ahead=ahead, latest=latest)
        self._last: int = max(last, self.reached)
        self._on_disk = self._last
        self._file.freeing(self._note)

    @property
    def waiting(self) -> int:
        """Records, and gaps as many as they stand for."""
        return self._last - self.reached

    # -- in ----------------------------------------------------------------------------------------

    def append(self, records: Sequence[Record]) -> int:
        """Keeps all of the records, or none. Returns the sequence of the last. Raises Full."""
        with self._lock:
            now = self._clock()
            rows = [(number, now, *record) for number, record in enumerate(records, self._last + 1)]
            try:
                with self._file.transaction():
                    self._db.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, 0, '')", rows)
            except sqlite3.OperationalError as error:
                if without_room(error):
                    raise Full from error
                raise
            self._last += len(rows)
            return self._last

    # -- out ---------------------------------------------------------------------------------------

    def read(self, most: int, most_bytes: int) -> Batch:
        """Reads the oldest records: at most so many, of so many bytes unless the first alone has more.
        All of them are on disk by then: after a power cut their sequences are not used again.
        """
        last = self._to_disk()
        with self._lock:
            found: list[Record | Gap] = []
            for pipeline, source, entity, body, required, skipped, reason in self._db.execute(
                "SELECT pipeline, source, entity, body, required, skipped, reason FROM records"
                " WHERE sequence <= ? ORDER BY sequence LIMIT ?",
                (last, most),
            ):
                most_bytes -= len(body or b"")
                if found and most_bytes < 0:
                    break
                record = Record(pipeline, source, entity, body, bool(required))
                found.append(Gap(skipped, reason) if skipped else record)
            return Batch(self.reached + 1, tuple(found))

    def acknowledge(self, reached: int) -> None:
        """Deletes all up to this sequence: the hub has it."""
        while self.reached < min(reached, self._last):
            with self._lock:
                self.reached = min(reached, self._next_step())
                self._file.freeing(self._delete_reached)
        with self._lock:
            if self.reached == self._last:
                self._file.shrink()
            self._file.reserve.take()

    def _next_step(self) -> int:
        # The last sequence that is deleted together with the first.
        end = size = 0
        for sequence, length in self._db.execute(
            "SELECT sequence, length(body) FROM records ORDER BY sequence LIMIT 1000"
        ):
            size += length or 0
            if end and size > STEP_BYTES:
                break
            end = sequence
        return end

    def resume(self, reached: int) -> None:
        """Goes on from the hub's position in this epoch; 0: it knows none. Where the hub has more than
        was ever kept here, or less than it confirmed, one of the two lost what it knew: what is left
        here gets a new epoch and is forwarded from 1 on.
        """
        with self._lock:
            if self.reached <= reached <= self._last:
                self.acknowledge(reached)
            else:
                self._file.freeing(self._renumber)

    # -- without the hub ---------------------------------------------------------------------------

    def drop(self, most: int, *, older_than_s: float | None = None) -> int:
        """Drops the oldest records that are not required, at most so many and some MB. Returns how many."""
        with self._lock:
            before = self._clock() - (older_than_s or 0)
            reason: Reason = "full" if older_than_s is None else "old"
            which = "NOT required AND kept <= ? ORDER BY sequence LIMIT ?"
            return self._leave_gaps(which, (before, most), reason)

    def erase(self, pipeline: str, entity: str) -> int:
        """Erases the entity's records, from the files too. Returns how many there were."""
        with self._lock:
            which, erased = "pipeline = ? AND entity = ? ORDER BY sequence", 0
            while left := self._leave_gaps(which, (pipeline, entity), "erased"):
                erased += left
            self._file.forget()
            return erased

    def depth(self) -> Depth:
        with self._lock:
            oldest = self._db.execute(
                "SELECT kept FROM records WHERE skipped = 0 ORDER BY sequence LIMIT 1"
            ).fetchone()
            return Depth(
                records=self.waiting,
                bytes=self._file.used,
                size=self._size,
                oldest_s=self._clock() - oldest[0] if oldest else None,
                dropped=self._dropped,
            )

    # -- rows ----------------------------------------------------------------------------------

    def _note(self) -> None:
        lane = (self.epoch, self.reached, self._clock.boot, self._clock.ahead, self._dropped)
        self._db.execute("REPLACE INTO lane VALUES (1, ?, ?, ?, ?, ?)", lane)

    def _to_disk(self) -> int:
        """Returns the sequence up to which all is on disk now. Nobody who appends waits for it."""
        last = self._last
        if self._on_disk < last:
            self._file.sync()
        self._on_disk = last
        return last

    def _delete_reached(self) -> None:
        self._db.execute("DELETE FROM records WHERE sequence <= ?", (self.reached,))
        self._db.execute(  # the hub has a part of a gap
            "UPDATE records SET skipped = sequence - ?1"
            " WHERE sequence = (SELECT min(sequence) FROM records) AND skipped > sequence - ?1",
            (self.reached,),
        )
        self._note()

    def _renumber(self) -> None:
        self._db.execute("UPDATE records SET sequence = sequence - ?", (self.reached,))
        self._last -= self.reached
        self.epoch, self.reached = secrets.token_hex(8), 0
        self._note()

    def _leave_gaps(self, which: str, values: tuple[object, ...], reason: Reason) -> int:
        query = f"SELECT sequence, length(body) FROM records WHERE skipped = 0 AND {which}"  # noqa: S608  no one's words
        sequences: list[int] = []
        size = 0
        for sequence, length in self._db.execute(query, values):
            size += length
            if sequences and size > STEP_BYTES:
                break
            sequences.append(sequence)

        def replace() -> None:
            for first, last in _runs(sequences):
                self._leave_gap(first, last, reason)
            self._note()

        if sequences:
            self._dropped += len(sequences) if reason != "erased" else 0
            self._file.freeing(replace)
        return len(sequences)

    def _leave_gap(self, first: int, last: int, reason: Reason) -> None:
        before = self._db.execute(  # one that it continues
            "SELECT skipped FROM records WHERE sequence = ? AND reason = ?", (first - 1, reason)
        ).fetchone()
        skipped = last - first + 1
        if before:
            first, skipped = first - 1, skipped + before[0]
        self._db.execute("DELETE FROM records WHERE sequence BETWEEN ? AND ?", (first, last))
        gap = (last, self._clock(), skipped, reason)
        self._db.execute("INSERT INTO records VALUES (?, ?, '', '', '', NULL, 0, ?, ?)", gap)


def _runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """First and last of each stretch of numbers that follow one another. `numbers` rise."""
    stretch: tuple[int, int] | None = None
    for number in numbers:
        if stretch and number == stretch[1] + 1:
            stretch = stretch[0], number
            continue
        if stretch:
            yield stretch
        stretch = number, number
    if stretch:
        yield stretch
