"""Artifacts as files of this machine, or of a volume that several share."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from penstock.contracts.errors import Tampered, Unavailable

_CHUNK = 1 << 20


class FileArtifactStore:
    """Files below a root. No link below it is followed by what reads or removes."""

    def __init__(self, root: str) -> None:
        self._root = _path(root)

    def put(self, path: Path, uri: str) -> None:
        with _told(uri):
            _place(path, _path(uri))

    def get(self, uri: str, to: Path, most: int | None = None) -> None:
        with _told(uri), self._opened(uri) as source, to.open("wb") as target:
            while chunk := source.read(_CHUNK):
                if most is not None and target.tell() + len(chunk) > most:
                    raise Tampered(f"it has more than the {most} bytes expected", where=uri)
                target.write(chunk)

    def delete(self, uri: str) -> None:
        with suppress(FileNotFoundError), _told(uri), self._folder_of(uri) as (folder, name):
            try:
                os.unlink(name, dir_fd=folder)
            except IsADirectoryError:
                shutil.rmtree(name, dir_fd=folder)

    def _opened(self, uri: str) -> IO[bytes]:
        """A regular file, which alone has an end and is there without being waited for."""
        with self._folder_of(uri) as (folder, name):
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise Tampered("it is no file", where=uri)
        return os.fdopen(descriptor, "rb")

    @contextmanager
    def _folder_of(self, uri: str) -> Iterator[tuple[int, str]]:
        """The folder that holds it, opened, and its name in there. Raises Tampered for a link on the way."""
        *folders, name = _path(uri).relative_to(self._root).parts
        at = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for folder in folders:
                above, at = at, _open_folder(folder, at, uri)
                os.close(above)
            yield at, name
        finally:
            os.close(at)


def _path(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def _open_folder(name: str, above: int, uri: str) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
    except NotADirectoryError as error:
        raise Tampered(f"`{name}` on the way to it is no folder, or a link", where=uri) from error


@contextmanager
def _told(uri: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Tampered("it is a link, and no file", where=uri) from error
        said = f"the artifact store does not work: {error.strerror or error}"
        raise Unavailable(said, where=uri, remedy="See its disk, and who owns it") from error


def _place(path: Path, target: Path) -> None:
    """Copy beside the target, to disk, then rename: a reader sees the old bytes or the new ones,
    also after a power cut.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".incoming-")
    try:
        with os.fdopen(descriptor, "wb") as incoming, path.open("rb") as source:
            shutil.copyfileobj(source, incoming, _CHUNK)
            incoming.flush()
            os.fsync(incoming.fileno())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
