"""Artifacts as files of this machine, or of a volume that several share."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from penstock.contracts.errors import Tampered, Unavailable

_CHUNK = 1 << 20


class FileArtifactStore:
    def put(self, path: Path, uri: str) -> None:
        with _told(uri):
            _place(path, _path(uri))

    def get(self, uri: str, to: Path, most: int | None = None) -> None:
        with _told(uri), _opened(uri) as source, to.open("wb") as target:
            while chunk := source.read(_CHUNK):
                if most is not None and target.tell() + len(chunk) > most:
                    raise Tampered(f"it has more than the {most} bytes expected", where=uri)
                target.write(chunk)

    def exists(self, uri: str) -> bool:
        with _told(uri):
            return _path(uri).exists()

    def delete(self, uri: str) -> None:
        path = _path(uri)
        with _told(uri):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _path(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def _opened(uri: str) -> IO[bytes]:
    """A regular file, which alone has an end and is there without being waited for."""
    descriptor = os.open(_path(uri), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Tampered("it is no file", where=uri)
    return os.fdopen(descriptor, "rb")


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
