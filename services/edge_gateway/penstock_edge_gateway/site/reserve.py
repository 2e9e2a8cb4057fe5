"""Room on the disk that is given back where nothing else could be deleted any more: SQLite writes what
it deletes into its log first, and on a full disk it cannot.
"""

from __future__ import annotations

import os
from pathlib import Path


class Reserve:
    """A file that holds the room. Methods block."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size

    def take(self) -> bool:
        """Takes the room again where the disk has twice as much left. Tells whether it is held."""
        if self._path.exists():
            return True
        disk = os.statvfs(self._path.parent)
        if disk.f_bavail * disk.f_frsize < 2 * self._size:
            return False
        try:
            with self._path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self._size)
        except OSError:  # another program was faster
            self._path.unlink(missing_ok=True)
            return False
        return True

    def give_back(self) -> bool:
        """Frees the room; False where there was none."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True
