"""The SQLite file of a spool: bounded, synced as asked, and able to delete on a full disk."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from penstock_edge_gateway.site.reserve import Reserve

T = TypeVar("T")

_PAGE_BYTES: Final = 4096
_LOG_BYTES: Final = 4 << 20  # SQLite's write-ahead log, beside the file
_VACUUM_PAGES: Final = 1024  # free pages that go back to the disk at once
STEP_BYTES: Final = 1 << 20
"""Bytes of records that one transaction may delete: log and reserve have room for it."""


class SpoolFile:
    """One connection. Not safe from several threads at once, but for `sync`."""

    def __init__(self, path: Path, schema: str, *, durable: bool, size: int) -> None:
        """Opens the file, or makes it, for its owner's eyes alone. `durable`: what was committed is on
        disk. `size`: bytes at most; log and reserve take 12 MiB beside it.
        """
        self._durable = durable
        self._log = path.with_name(f"{path.name}-wal")
        self.reserve = Reserve(path.with_suffix(".reserve"), 2 * _LOG_BYTES)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite's other files take its mode
        self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in (
            f"page_size = {_PAGE_BYTES}",
            "auto_vacuum = INCREMENTAL",  # before the first page is written
            "journal_mode = WAL",
            f"journal_size_limit = {_LOG_BYTES}",
            f"synchronous = {'FULL' if durable else 'NORMAL'}",
            "secure_delete = ON",
            f"max_page_count = {size // _PAGE_BYTES}",
        ):
            self.db.execute(f"PRAGMA {pragma}")
        self.db.executescript(schema)

    @property
    def used(self) -> int:
        """Bytes of pages that hold something."""
        (pages,) = self.db.execute("PRAGMA page_count").fetchone()
        return int(pages - self._free()) * _PAGE_BYTES

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.db.execute("COMMIT")
        except BaseException:
            if self.db.in_transaction:  # SQLite ends some by itself
                self.db.execute("ROLLBACK")
            raise

    def freeing(self, change: Callable[[], T]) -> T:
        """One transaction that has to succeed on a full disk, too; it deletes STEP_BYTES at most."""
        try:
            with self.transaction():
                return change()
        except sqlite3.OperationalError as error:
            if not (without_room(error) and self.reserve.give_back()):
                raise
        with self.transaction():
            return change()

    def sync(self) -> None:
        """Brings all that was committed to disk. Nobody who commits waits for it."""
        if not self._durable:
            # It is in the log, or was moved out of it, for which SQLite synced both.
            with self._log.open("rb") as log:
                os.fdatasync(log.fileno())

    def forget(self) -> None:
        """Removes from the log what was deleted."""
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def shrink(self) -> None:
        """Gives free pages back to the disk."""
        if self._free() < _VACUUM_PAGES:
            return
        try:
            while self._free():
                # `execute` would give one page back
                self.db.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")
                self.forget()
        except sqlite3.OperationalError as error:
            if not without_room(error):  # the next time, then
                raise

    def close(self) -> None:
        self.db.close()

    def _free(self) -> int:
        (pages,) = self.db.execute("PRAGMA freelist_count").fetchone()
        return int(pages)


def without_room(error: sqlite3.OperationalError) -> bool:
    """Tells whether the file's bound, or the disk's end, was reached."""
    return error.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
