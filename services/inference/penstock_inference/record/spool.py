"""Spool of predictions: the door's log, read in order across rotation without losing a line.

Envoy appends to `predictions.log`, which it opens anew for each line. To rotate, the file is
renamed to `predictions-<nanoseconds>.log` and a new one is made (0600). A line for which the old
name was opened just before may still come; so a file is left only a second after its renaming and
when a later one has a line, and is read once more before.

A file is known by the hash of its first line, which holds an id that no other line has: a name
changes, an inode is used again.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from penstock_inference.door.door import LOG_FILE, Door
from penstock_inference.door.files import make_log

log = structlog.get_logger(__name__)

READ_BYTES: Final = 4 << 20
"""Bytes that are read at once, unless a line is longer."""
LEAVE_AFTER_S: Final = 1.0
"""Seconds after its renaming until a file may be left."""
LINE_START: Final = b'{"grpc_status":'
"""Beginning of a line, and nowhere else in one: within a text a quotation mark is escaped."""


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
    position: Position
    """Place after these lines."""
    full: bool
    """Whether more may be there already."""


def log_files(folder: Path) -> list[Path]:
    """Lists the files of the log, oldest first; the one that Envoy writes comes last."""
    named = [*sorted(folder.glob("predictions-*.log")), folder / LOG_FILE]
    return [path for path in named if path.is_file() and not path.is_symlink()]


def first_line_hash(descriptor: int) -> str | None:
    """Identity of a file: the hash of its first line; None while it has no whole line."""
    hashed = hashlib.sha256()
    at = 0
    while chunk := os.pread(descriptor, 1 << 16, at):
        end = chunk.find(b"\n")
        if end >= 0:
            hashed.update(chunk[:end])
            return hashed.hexdigest()[:32]
        hashed.update(chunk)
        at += len(chunk)
    return None


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
        self._descriptor: int | None = None
        self._identity: str | None = None
        self._offset = 0
        self._seek(position)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def read(self) -> Lines | None:
        """Reads the next lines, at most READ_BYTES of them unless one is longer; None while there
        are none.
        """
        while self._descriptor is not None or self._open_oldest():
            if found := self._read_here():
                return found
            if not (following := self._following()):
                return None
            if found := self._read_here():  # what came in while we looked at the next file
                return found
            self._leave_for(following)
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
        """Whether all of `path`, one of the rotated files, is published."""
        files = log_files(self._folder)
        here = self._index(files)
        if here is None or path not in files:
            return False
        if self._is(path):
            end = os.fstat(self._descriptor or 0).st_size
            return self._identity is not None and committed == Position(self._identity, end)
        return files.index(path) < here and committed is not None and committed.file == self._identity

    # -- inside ------------------------------------------------------------------------------------

    def _seek(self, position: Position | None) -> None:
        if position is None:
            return
        for path in log_files(self._folder):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if first_line_hash(descriptor) == position.file:
                self._descriptor, self._identity, self._offset = descriptor, position.file, position.offset
                return
            os.close(descriptor)
        log.info("log_file_gone", file=position.file, goes_on="with the oldest that is left")

    def _open_oldest(self) -> bool:
        files = log_files(self._folder)
        if files:
            self._open(files[0])
        return bool(files)

    def _open(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._identity, self._offset = None, 0

    def _read_here(self) -> Lines | None:
        assert self._descriptor is not None
        data = b""
        while chunk := os.pread(self._descriptor, READ_BYTES, self._offset + len(data)):
            data += chunk
            end = data.rfind(b"\n") + 1
            if end:
                break
        else:
            return None
        if self._identity is None:
            self._identity = first_line_hash(self._descriptor)
        assert self._identity is not None  # there is a line
        self._offset += end
        return Lines(
            data[: end - 1].split(b"\n"), Position(self._identity, self._offset), full=len(data) >= READ_BYTES
        )

    def _following(self) -> Path | None:
        """Finds the next file, once it has a whole line: then Envoy writes there, and nothing more
        comes here.
        """
        files = log_files(self._folder)
        here = self._index(files)
        if here is None:  # removed from under us; what the descriptor holds has been read
            return files[0] if files else None
        if time.time() - _renamed_at(files[here]) < self._leave_after_s:
            return None
        for path in files[here + 1 :]:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if first_line_hash(descriptor):
                    return path
            finally:
                os.close(descriptor)
        return None

    def _leave_for(self, path: Path) -> None:
        assert self._descriptor is not None
        if torn := os.fstat(self._descriptor).st_size - self._offset:
            log.warning("line_torn", bytes=torn, why="Envoy was killed while it wrote, or the disk was full")
        self.close()
        self._open(path)

    def _index(self, files: list[Path]) -> int | None:
        return next((index for index, path in enumerate(files) if self._is(path)), None)

    def _is(self, path: Path) -> bool:
        if self._descriptor is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._descriptor), path.stat())
        except FileNotFoundError:
            return False


def _renamed_at(path: Path) -> float:
    """Time of a file's renaming, in seconds since the epoch; now, if it was not renamed."""
    nanoseconds = path.stem.removeprefix("predictions-")
    return int(nanoseconds) / 1e9 if nanoseconds.isdecimal() else time.time()


def rotate(door: Door) -> Path:
    """Renames the file that Envoy writes and makes a new one. Returns the renamed file."""
    aside = door.folder / f"predictions-{time.time_ns():020d}.log"
    door.log.rename(aside)
    make_log(door)
    return aside


def ensure_private(door: Door) -> None:
    """Makes a missing log; makes one that Envoy itself made unreadable for everybody else."""
    if not door.log.is_file() or door.log.lstat().st_mode & 0o077:
        make_log(door)
