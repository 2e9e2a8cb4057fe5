"""Spool of predictions: the door's log, read in order across rotation without losing a line, and
removed once it is published: personal data lie there no longer than they must.

Envoy appends to `predictions.log`, which it opens anew ten times a second. To rotate, the file is
renamed to `predictions-<nanoseconds>.log` and a new one is made (0600). Lines for which the old
name was opened before may still come; so a file is left only a second after its renaming and when a
later one has a line, and is read once more before.

A file is known by the hash of its first line, which holds an id that no other line has: a name
changes, an inode is used again.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Final

import structlog

from penstock_inference.door.door import LOG_FILE, Door
from penstock_inference.door.files import adopt, aside_of, make_log

log = structlog.get_logger(__name__)

READ_BYTES: Final = 4 << 20  # read at once, unless a line is longer
LEAVE_AFTER_S: Final = 1.0  # seconds after its renaming until a file may be left
TIDY_EVERY_S: Final = 1.0  # seconds between two looks for what is to be rotated or removed
# Beginning of a line, and nowhere else in one: within a text a quotation mark is escaped.
LINE_START: Final = b'{"grpc_status":'


@dataclass(frozen=True)
class Position:
    """Place in the log: all before `offset` bytes of the file, and every earlier file, is
    published.
    """

    file: str
    offset: int


@dataclass(frozen=True)
class Lines:
    """Whole lines that were read at once."""

    lines: list[bytes]
    position: Position  # place after these lines
    full: bool  # whether more may be there already


def log_files(folder: Path) -> list[Path]:
    """Lists the files of the log, oldest first; the one that Envoy writes comes last."""
    named = [*sorted(folder.glob("predictions-*.log")), folder / LOG_FILE]
    return [path for path in named if path.is_file() and not path.is_symlink()]


def first_line_hash(file: BinaryIO) -> str | None:
    """Identity of a file: the hash of its first line; None while it has no whole line."""
    file.seek(0)
    line = file.readline()
    return hashlib.sha256(line[:-1]).hexdigest()[:32] if line.endswith(b"\n") else None


def mended(line: bytes) -> bytes:
    """Drops the torn beginning that a killed writer left before a whole line."""
    last = line.rfind(LINE_START)
    return line[last:] if last > 0 else line


class Tail:
    """Reader of whole lines from a position on, in one thread."""

    def __init__(
        self, folder: Path, position: Position | None, *, leave_after_s: float = LEAVE_AFTER_S
    ) -> None:
        self._folder = folder
        self._leave_after_s = leave_after_s
        self._file: BinaryIO | None = None
        self._identity: str | None = None
        self._offset = 0
        if position:
            self._seek(position)

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def read(self) -> Lines | None:
        """Reads the next lines, at most READ_BYTES of them unless one is longer; None while there
        are none.
        """
        while file := self._file or self._open_oldest():
            if found := self._read_here(file):
                return found
            if not (following := self._following()):
                return None
            if found := self._read_here(file):  # what came in while we looked at the next file
                return found
            if torn := os.fstat(file.fileno()).st_size - self._offset:
                log.warning(
                    "line_torn", bytes=torn, why="Envoy was killed while it wrote, or the disk was full"
                )
            self.close()
            self._open(following)
        return None

    def backlog_bytes(self) -> int:
        """Size of what is not yet read."""
        files = log_files(self._folder)
        sizes = [path.stat().st_size if path.exists() else 0 for path in files]
        here = self._index(files)
        return sum(sizes) if here is None else sum(sizes[here:]) - self._offset

    def rotated(self) -> list[Path]:
        """Lists the files that Envoy does not open any more, oldest first."""
        return [path for path in log_files(self._folder) if path.name != LOG_FILE]

    def is_published(self, path: Path, committed: Position | None) -> bool:
        """Tells whether all of `path`, one of the rotated files, is published."""
        files = log_files(self._folder)
        here = self._index(files)
        if here is None or path not in files or committed is None or committed.file != self._identity:
            return False
        at = files.index(path)
        return at < here or (at == here and committed.offset == path.stat().st_size)

    # -- inside ------------------------------------------------------------------------------------

    def _seek(self, position: Position) -> None:
        for path in log_files(self._folder):
            if first_line_hash(self._open(path)) == position.file:
                self._identity, self._offset = position.file, position.offset
                return
            self.close()
        log.info("log_file_gone", file=position.file, goes_on="with the oldest that is left")

    def _open_oldest(self) -> BinaryIO | None:
        files = log_files(self._folder)
        return self._open(files[0]) if files else None

    def _open(self, path: Path) -> BinaryIO:
        self._file = path.open("rb")
        self._identity, self._offset = None, 0
        return self._file

    def _read_here(self, file: BinaryIO) -> Lines | None:
        file.seek(self._offset)
        data = b""
        while not (end := data.rfind(b"\n") + 1):
            chunk = file.read(READ_BYTES)
            if not chunk:
                return None
            data += chunk
        identity = self._identity = self._identity or first_line_hash(file)
        assert identity is not None  # there is a line
        self._offset += end
        return Lines(
            data[: end - 1].split(b"\n"), Position(identity, self._offset), full=len(data) >= READ_BYTES
        )

    def _following(self) -> Path | None:
        # The next file, once it has a whole line: then Envoy writes there, and nothing more comes here.
        files = log_files(self._folder)
        here = self._index(files)
        if here is None:  # removed from under us; what the open file holds has been read
            return files[0] if files else None
        if time.time() - _renamed_at(files[here]) < self._leave_after_s:
            return None
        for path in files[here + 1 :]:
            with path.open("rb") as file:
                if first_line_hash(file):
                    return path
        return None

    def _index(self, files: list[Path]) -> int | None:
        return next((index for index, path in enumerate(files) if self._is(path)), None)

    def _is(self, path: Path) -> bool:
        try:
            return self._file is not None and os.path.samestat(os.fstat(self._file.fileno()), path.stat())
        except FileNotFoundError:
            return False


def _renamed_at(path: Path) -> float:
    # In seconds since the epoch; now, if it was not renamed.
    nanoseconds = path.stem.removeprefix("predictions-")
    return int(nanoseconds) / 1e9 if nanoseconds.isdecimal() else time.time()


def rotate(door: Door) -> Path:
    """Renames the file that Envoy writes and makes a new one. Returns the renamed file."""
    aside = aside_of(door)
    door.log.rename(aside)
    make_log(door)
    return aside


def ensure_private(door: Door) -> None:
    """Makes a missing log; makes one that Envoy itself made unreadable for everybody else."""
    if not door.log.is_file() or door.log.lstat().st_mode & 0o077:
        make_log(door)


@dataclass
class Housekeeping:
    """Rotates and removes log files. The recorder calls it between batches, in its thread; it works
    once a second.
    """

    door: Door
    rotate_bytes: int
    rotate_after: timedelta
    keep: timedelta
    _next: float = 0.0
    _written_since: float | None = None

    def __call__(self, tail: Tail, committed: Position | None) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + TIDY_EVERY_S
        try:
            adopt(self.door)
            ensure_private(self.door)
            if self._is_due(now):
                aside = rotate(self.door)
                self._written_since = None
                log.info("log_rotated", to=aside.name, bytes=aside.stat().st_size)
            for path in tail.rotated():
                kept_s = time.time() - path.stat().st_mtime
                if kept_s <= self.keep.total_seconds() or not tail.is_published(path, committed):
                    break
                path.unlink()
                log.info("log_removed", file=path.name)
        except OSError as error:  # a full disk, a log that is a link: the door's keeper says so and closes it
            log.warning("housekeeping_failed", reason=str(error))

    def _is_due(self, now: float) -> bool:
        size = self.door.log.stat().st_size
        self._written_since = (self._written_since or now) if size else None
        if self._written_since is None:
            return False
        return size >= self.rotate_bytes or now - self._written_since >= self.rotate_after.total_seconds()
