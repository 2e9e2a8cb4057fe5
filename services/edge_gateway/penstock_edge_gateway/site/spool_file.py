"""The SQLite file of a spool: bounded, synced as asked, and able to delete on a full disk."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from penstock_edge_gateway.site.reserve import Reserve

T = TypeVar("T")

_PAGE_BYTES: Final = 4096
_LOG_BYTES: Final = 4 << 20  # SQLite's write-ahead log, beside the file
_VACUUM_PAGES: Final = 1024  # free pages that go back to the disk at once
STEP_BYTES: Final = 1 << 20
"""Bytes of records that one transaction may delete: log and reserve have room for it."""


class Full(Exception):
    """Nothing was changed: the file has reached its size, or the disk is full."""


class SpoolFile:
    """A connection. Not safe from several threads at once, but for `sync`."""

    def __init__(self, path: Path, schema: str, *, durable: bool, size: int) -> None:
        """Opens the file, or makes it, for its owner's eyes alone. `durable`: what was committed is on
        disk. `size`: bytes at most; log and reserve take 12 MiB beside it. A file that is damaged is
        moved aside, and another begun.
        """
        self._path, self._schema, self._durable, self._size = path, schema, durable, size
        self._log = path.with_name(f"{path.name}-wal")
        self._condemned = path.with_name(f"{path.name}-damaged")
        self.aside: Path | None = None
        """Where a file lies that was damaged."""
        self._reserve = Reserve(path.with_suffix(".reserve"), 2 * _LOG_BYTES)
        if self._condemned.exists():
            self._move_aside()
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if is_damage(error):
                self.begin_anew()
            elif _without_room(error) and self._reserve.give_back():
                self._open()
            else:
                raise

    def _open(self) -> None:
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite's other files take its mode
        self.db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        for pragma in (
            f"page_size = {_PAGE_BYTES}",
            "auto_vacuum = INCREMENTAL",  # before the first page is written
            "journal_mode = WAL",
            f"journal_size_limit = {_LOG_BYTES}",
            f"synchronous = {'FULL' if self._durable else 'NORMAL'}",
            "secure_delete = ON",
        ):
            self.db.execute(f"PRAGMA {pragma}")
        self.db.executescript(self._schema)
        self._grows = True
        self._bound(self._reserve.take())

    def _bound(self, grows: bool) -> None:
        self._grows = grows
        self.db.execute(f"PRAGMA max_page_count = {self._size // _PAGE_BYTES if grows else 1}")  # as it is

    def regain(self) -> bool:
        """Takes the reserve again where the disk has room. Tells whether the file may grow from now on, and
        might not before: without a reserve it does not, or nothing could be deleted in the end.
        """
        if self._grows or not self._reserve.take():
            return False
        self._bound(grows=True)
        return True

    def condemn(self) -> None:
        """Has the next start move the file aside: damage was found in it."""
        self._condemned.touch()

    def begin_anew(self) -> None:
        """Moves the file aside, for who may want to save what can be read of it, and begins another."""
        self.db.close()
        self._move_aside()
        self._open()

    def _move_aside(self) -> None:
        aside = next(
            path
            for number in range(1, 1 << 30)
            if not (path := self._path.with_name(f"{self._path.name}-aside-{number}")).exists()
        )
        for ending in ("-wal", "-shm", ""):
            with suppress(FileNotFoundError):
                self._path.with_name(f"{self._path.name}{ending}").rename(f"{aside}{ending}")
        self._condemned.unlink(missing_ok=True)
        self.aside = aside

    @property
    def used(self) -> int:
        """Bytes of pages that hold something."""
        (pages,) = self.db.execute("PRAGMA page_count").fetchone()
        return int(pages - self._free()) * _PAGE_BYTES

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Raises Full where there is no room."""
        with _or_full():
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:  # SQLite ends some by itself
                    self.db.execute("ROLLBACK")
                raise

    def freeing(self, change: Callable[[], T]) -> T:
        """A transaction that has to succeed on a full disk, too; it deletes STEP_BYTES at most. Raises
        Full where others took the reserve's room, and the log has none.
        """
        with suppress(Full), self.transaction():
            return change()
        if self._reserve.give_back():
            self._bound(grows=False)
        with _or_full():
            self.db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()  # the log's own room is used again
        with self.transaction():
            return change()

    def sync(self) -> None:
        """Brings all that was committed to disk. Nobody who commits waits for it."""
        if not self._durable:
            # It is in the log, or was moved out of it, for which SQLite synced both.
            with self._log.open("rb") as log:
                os.fdatasync(log.fileno())

    def checkpoint_beside(self) -> None:
        """Moves the log into the file, as far as nobody commits meanwhile, and brings that to disk.
        Nobody who commits waits for it. Safe from any thread.
        """
        with closing(sqlite3.connect(self._path, isolation_level=None)) as beside:
            beside.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def checkpoint(self) -> None:
        """Moves the rest of the log, so that the next commit begins it anew."""
        self.db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def forget(self) -> None:
        """Removes from the log what was deleted. Raises Full."""
        with _or_full():
            self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @property
    def has_waste(self) -> bool:
        """Tells whether there are enough free pages to be worth giving back."""
        return self._free() >= _VACUUM_PAGES

    def shrink(self) -> bool:
        """Gives a few free pages back to the disk; tells whether there may be more to give."""
        before = self._free()
        try:
            with _or_full():  # `execute` would give one page back
                self.db.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")
            self.forget()
        except Full:
            return False  # the next time, then
        return 0 < self._free() < before

    def close(self) -> None:
        self.db.close()

    def _free(self) -> int:
        (pages,) = self.db.execute("PRAGMA freelist_count").fetchone()
        return int(pages)


@contextmanager
def _or_full() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if _without_room(error):
            raise Full from error
        raise


def _without_room(error: sqlite3.DatabaseError) -> bool:
    # The file's bound, or the disk's end, was reached.
    return _code(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Tells whether the file is no database any more, or no whole one."""
    return _code(error) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)  # the rest says where


def _code(error: sqlite3.DatabaseError) -> int:
    # Python's own errors have none.
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR))
