"""Records of one lane, kept on disk until the hub has them: SQLite, in a file of its own.

Events and predictions have a spool each, so that neither takes the other's room or waits for its
commits. Sequences are dense: a record that was dropped or erased leaves a gap, which is forwarded in
its place. So a gap that is meant is told from a loss.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, takewhile
from pathlib import Path
from typing import Final, Literal, NamedTuple, Self

from penstock_edge_gateway.site.age import AgeClock, Clock, since_boot
from penstock_edge_gateway.site.depth import Depth
from penstock_edge_gateway.site.spool_file import STEP_BYTES, Full, SpoolFile, is_damage

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
-- What may be dropped: without it, looking for that would read all that is kept.
CREATE INDEX IF NOT EXISTS droppable ON records (sequence) WHERE skipped = 0 AND NOT required;
CREATE TABLE IF NOT EXISTS lane (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    epoch TEXT NOT NULL,
    base INTEGER NOT NULL,         -- records are forwarded as the epoch's first, second, … after this one
    reached INTEGER NOT NULL,      -- the hub has all up to here
    boot TEXT NOT NULL,
    ahead REAL NOT NULL,
    dropped INTEGER NOT NULL       -- records since the file was made
);
"""
_DROPPABLE: Final = (
    "SELECT sequence, length(body), kept FROM records INDEXED BY droppable"
    " WHERE skipped = 0 AND NOT required ORDER BY sequence LIMIT ?"
)
_ENTITYS: Final = (
    "SELECT sequence, length(body) FROM records"
    " WHERE skipped = 0 AND pipeline = ? AND entity = ? ORDER BY sequence"
)
ROW_BYTES: Final = 60  # of a record, beside its body
_WAY_S: Final = 0.001  # in which who waits for the lock gets it


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
    epoch: str
    """Epoch that the sequences count in."""

    @property
    def last(self) -> int:
        """Sequence of the last record; `first - 1` without any."""
        return self.first - 1 + sum(one.records if isinstance(one, Gap) else 1 for one in self.entries)


class Spool:
    """A lane. Methods block, and may be called from any thread; none holds up the others for long, but
    for `erase`.
    """

    def __init__(self, path: Path, *, durable: bool, size: int, clock: Clock = since_boot) -> None:
        """Opens the file, or makes it. `durable`: a record is on disk when `append` returns; else it
        outlives the process, and a power cut takes the last seconds. `size`: bytes at most; log and
        reserve take 12 MiB beside it. A file that is damaged is moved aside, and another begun.
        """
        self._size = size
        self._lock = threading.RLock()
        self._oldest: float | None = None  # when the oldest record was kept
        self.logged = 0  # bytes that were kept since the last checkpoint, about
        self._file = SpoolFile(path, _SCHEMA, durable=durable, size=size)
        try:
            self._restore(clock)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self._file.begin_anew()
            self._restore(clock)

    @property
    def aside(self) -> Path | None:
        """Path of the file that was damaged, where the start found one."""
        return self._file.aside

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._file.close()

    @contextmanager
    def _held(self) -> Iterator[None]:
        # The file for one caller alone. Damage that shows is left to the next start.
        with self._lock:
            try:
                yield
            except sqlite3.DatabaseError as error:
                if is_damage(error):
                    self._file.condemn()
                raise

    def _restore(self, clock: Clock) -> None:
        self._db = self._file.db
        newest = "SELECT sequence, kept FROM records ORDER BY sequence DESC LIMIT 1"
        last, latest = self._db.execute(newest).fetchone() or (0, 0.0)
        lane = self._db.execute("SELECT epoch, base, reached, boot, ahead, dropped FROM lane").fetchone()
        self.epoch: str
        self._base: int
        self.reached: int
        self._dropped: int
        new = (secrets.token_hex(8), 0, 0, "", 0.0, 0)
        self.epoch, self._base, self.reached, boot, ahead, self._dropped = lane or new
        self._clock = AgeClock(clock, boot=boot, ahead=ahead, latest=latest)
        self._last: int = max(last - self._base, self.reached)
        self._on_disk = self._base + self._last
        self._look()
        try:
            self._file.freeing(self._note)
        except Full:
            if not lane:  # or the next change notes it
                raise

    @contextmanager
    def _or_as_before(self) -> Iterator[None]:
        # What the file does not keep, memory does not either.
        before = self.epoch, self._base, self._last, self.reached, self._dropped
        try:
            yield
        except BaseException:
            self.epoch, self._base, self._last, self.reached, self._dropped = before
            self._look()
            raise

    @property
    def waiting(self) -> int:
        """Records, and gaps as many as they stand for."""
        return self._last - self.reached

    @property
    def oldest_s(self) -> float | None:
        """Age of the oldest, in seconds while the machine was on. Waits for nobody."""
        oldest = self._oldest
        return None if oldest is None else self._clock() - oldest

    # -- in ----------------------------------------------------------------------------------------

    def append(self, records: Sequence[Record]) -> int:
        """Keeps all of the records, or none. Returns the sequence of the last. Raises Full."""
        with self._held():
            now = self._clock()
            first = self._base + self._last + 1
            rows = [(number, now, *record) for number, record in enumerate(records, first)]
            try:
                self._insert(rows)
            except Full:
                if not self._file.regain():
                    raise
                self._insert(rows)
            self._last += len(rows)
            self.logged += sum(len(one.body) + ROW_BYTES for one in records)
            if self._oldest is None and rows:
                self._oldest = now
            return self._last

    def checkpoint(self) -> None:
        """Moves what was kept from the log into the file. Who appends waits for the end of it alone."""
        self.logged = 0
        self._file.checkpoint_beside()
        with self._held():
            self._file.checkpoint()

    # -- out ---------------------------------------------------------------------------------------

    def read(self, most: int, most_bytes: int, after: int = 0) -> Batch:
        """Reads the oldest records behind the sequence `after`: at most so many, of so many bytes unless
        the first alone has more. All of them are on disk by then: after a power cut their sequences are
        not used again.
        """
        last = self._to_disk()
        with self._held():
            after = max(after, self.reached)
            found: list[Record | Gap] = []
            for sequence, pipeline, source, entity, body, required, skipped, reason in self._db.execute(
                "SELECT sequence, pipeline, source, entity, body, required, skipped, reason FROM records"
                " WHERE sequence > ? AND sequence <= ? ORDER BY sequence LIMIT ?",
                (self._base + after, last, most),
            ):
                most_bytes -= len(body or b"")
                if found and most_bytes < 0:
                    break
                record = Record(pipeline, source, entity, body, bool(required))
                # A gap may have begun before.
                skipped = min(skipped, sequence - self._base - after)
                found.append(Gap(skipped, reason) if skipped else record)
            return Batch(after + 1, tuple(found), self.epoch)

    def acknowledge(self, reached: int, epoch: str = "") -> None:
        """Deletes all up to this sequence of the `epoch`, by default the present one: the hub has it. Raises
        Full on a disk that has no room for deleting either: the rest is acknowledged another time.
        """
        epoch = epoch or self.epoch
        while self._delete_some(reached, epoch):
            time.sleep(_WAY_S)
        self._shrink()
        with self._held():
            self._file.regain()

    def _delete_some(self, reached: int, epoch: str) -> bool:
        # Whether there was any left. Another epoch may begin between two steps: its sequences are others.
        with self._held(), self._or_as_before():
            if self.epoch != epoch or self.reached >= min(reached, self._last):
                return False
            self.reached = min(reached, self._next_step())
            self._file.freeing(self._delete_reached)
            return True

    def _shrink(self) -> None:
        # Gigabytes take long: whoever appends meanwhile comes between two steps.
        with self._held():
            goes_on = self.reached == self._last and self._file.has_waste
        while goes_on:
            time.sleep(_WAY_S)
            with self._held():
                goes_on = self.reached == self._last and self._file.shrink()

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
        return end - self._base

    def resume(self, reached: int, epoch: str) -> None:
        """Goes on from the hub's position in the epoch; 0: it knows none. Where the hub has more than
        was ever kept here, or less than it confirmed, one of the two lost what it knew: what is left
        here gets a new epoch and is forwarded from 1 on. Nothing where another has begun since.
        """
        with self._held():
            known = self.reached <= reached <= self._last
            if not known and self.epoch == epoch:
                self.begin_epoch()
        if known:
            self.acknowledge(reached, epoch)

    def begin_epoch(self) -> None:
        """Has what is left forwarded from 1 on, under another name. Raises Full as `acknowledge`."""
        with self._held(), self._or_as_before():
            self._base, self._last = self._base + self.reached, self._last - self.reached
            self.epoch, self.reached = secrets.token_hex(8), 0
            self._file.freeing(self._note)

    # -- without the hub ---------------------------------------------------------------------------

    def drop(self, most: int, *, older_than_s: float | None = None) -> int:
        """Drops the oldest records that are not required, at most so many and some MB. Returns how many: none
        on a disk that has no room for deleting either.
        """
        with self._held():
            before = self._clock() - (older_than_s or 0)
            reason: Reason = "full" if older_than_s is None else "old"
            oldest = takewhile(lambda row: row[2] <= before, self._db.execute(_DROPPABLE, (most,)))
            try:
                return self._leave_gaps([(sequence, length) for sequence, length, _ in oldest], reason)
            except Full:
                return 0

    def erase(self, pipeline: str, entity: str) -> int:
        """Erases the entity's records, from the files too. Returns how many there were. Raises Full on a
        disk that has no room for deleting either.
        """
        with self._held():
            found, erased = self._db.execute(_ENTITYS, (pipeline, entity)).fetchall(), 0
            while erased < len(found):
                erased += self._leave_gaps(found[erased:], "erased")
            self._file.forget()
            return erased

    def depth(self) -> Depth:
        with self._held():
            used, oldest_s = self._file.used, self.oldest_s
            return Depth(
                records=self.waiting, bytes=used, size=self._size, oldest_s=oldest_s, dropped=self._dropped
            )

    # -- rows ----------------------------------------------------------------------------------

    def _insert(self, rows: Sequence[tuple[object, ...]]) -> None:
        with self._file.transaction():
            self._db.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, 0, '')", rows)

    def _note(self) -> None:
        boot, ahead = self._clock.boot, self._clock.ahead
        lane = (self.epoch, self._base, self.reached, boot, ahead, self._dropped)
        self._db.execute("REPLACE INTO lane VALUES (1, ?, ?, ?, ?, ?, ?)", lane)

    def _look(self) -> None:
        first = "SELECT kept FROM records WHERE skipped = 0 ORDER BY sequence LIMIT 1"
        found = self._db.execute(first).fetchone()
        self._oldest = found[0] if found else None

    def _to_disk(self) -> int:
        """Returns the row up to which all is on disk now. Nobody who appends waits for it."""
        with self._held():
            last = self._base + self._last
        if self._on_disk < last:
            self._file.sync()
        self._on_disk = last
        return last

    def _delete_reached(self) -> None:
        reached = (self._base + self.reached,)
        self._db.execute("DELETE FROM records WHERE sequence <= ?", reached)
        self._db.execute(  # the hub has a part of a gap
            "UPDATE records SET skipped = sequence - ?1"
            " WHERE sequence = (SELECT min(sequence) FROM records) AND skipped > sequence - ?1",
            reached,
        )
        self._look()
        self._note()

    def _leave_gaps(self, found: Iterable[tuple[int, int]], reason: Reason) -> int:
        """Leaves gaps for the first of the records, given by sequence and bytes; returns for how many."""
        sequences: list[int] = []
        size = 0
        for sequence, length in found:
            size += length
            if sequences and size > STEP_BYTES:
                break
            sequences.append(sequence)

        def replace() -> None:
            for first, last in _runs(sequences):
                self._leave_gap(first, last, reason)
            self._look()
            self._note()

        with self._or_as_before():
            self._dropped += len(sequences) if reason != "erased" else 0
            if sequences:
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
    for _, stretch in groupby(enumerate(numbers), lambda one: one[1] - one[0]):
        found = [number for _, number in stretch]
        yield found[0], found[-1]
